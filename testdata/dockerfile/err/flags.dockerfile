FROM --platfrom=x scratch
FROM scratch
COPY --chwon=1 a b
COPY --chown=1 --chown=2 a b
COPY --chown a b
COPY --link=maybe a b
COPY --link= a b
COPY --checksum=x a b
ADD --from=x a b
ADD --parents a b
RUN --mount a
RUN --mont=type=cache a
RUN --network=wifi a
RUN --security=maximum a
RUN --zzzzzz a
CMD --flag
ENTRYPOINT --flag=x
ENV --a=b C=d
LABEL --a C=d
EXPOSE --a 1
USER --a b
WORKDIR --a b
VOLUME --a b
SHELL --a ["b"]
MAINTAINER --a b
ONBUILD --a RUN b
HEALTHCHECK --interval CMD a
HEALTHCHECK --intervall=1s CMD a
