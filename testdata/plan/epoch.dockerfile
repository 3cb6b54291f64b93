# A global argument sets the time of the whole build; stages see the number.
ARG SOURCE_DATE_EPOCH=0001700000000
FROM alpine:3.20
ARG SOURCE_DATE_EPOCH
RUN date -d @$SOURCE_DATE_EPOCH
