FROM scratch
RUN ["a", 1]
CMD [null]
ENTRYPOINT ["a", ["b"]]
SHELL [1]
COPY ["a", {}, "b"]
VOLUME [true]
HEALTHCHECK CMD [1]
ONBUILD RUN [1]
SHELL sh -c
