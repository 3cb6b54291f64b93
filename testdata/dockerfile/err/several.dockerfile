# escape=x
# escape=`
FORM scratch
FROM scratch
RUM make
COPY --chwon=1 a b
ENV A
CMD ["a", 1]
run --mount=from=$x true
