FROM scratch
COPY --from=a \
  --chwon=b \
  # comment
  c d
ENV A=b \
  C \
  D=e
HEALTHCHECK \
  --interval=\
x CMD a
