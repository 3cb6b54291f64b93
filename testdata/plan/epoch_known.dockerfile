# The same with the answer.
#! epoch 1600000000
ARG SOURCE_DATE_EPOCH=context
FROM alpine:3.20
ARG SOURCE_DATE_EPOCH
RUN true
