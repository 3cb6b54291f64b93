from scratch as a
run x
RUN y
