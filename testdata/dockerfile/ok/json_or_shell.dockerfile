FROM scratch
RUN [ "a" , "b\"\u00e9\n" ]
RUN ["a"] b
RUN ['a']
RUN ["a"
RUN [a]
RUN []
RUN
CMD []
CMD
ENTRYPOINT []
ENTRYPOINT
CMD	["tab"]
SHELL ["sh"]
COPY [ "a" ]b c
VOLUME ["a b"]
VOLUME [/a, /b]
ADD ["a","b"]
HEALTHCHECK CMD ["a", "b"]
HEALTHCHECK CMD ['a']
