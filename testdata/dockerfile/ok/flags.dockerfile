FROM scratch
COPY --chown="a b" --chmod='0'6\44 -- --x y
COPY --link=FALSE --parents=True a b
COPY --from= --chown= a b
RUN --network=default -- --mount=x
RUN -x --mount=y
RUN --mount=type=bind,"a,b"=c make
ARG --ignored A
STOPSIGNAL --ignored 9
HEALTHCHECK --ignored NONE
ADD --exclude=a --exclude=a b c
