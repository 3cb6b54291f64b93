ARG A
RUN a
CMD b
FROM scratch
