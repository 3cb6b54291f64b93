FROM scratch
RUN --mount=from=${X},target=/x a
RUN --mount=a"b a
RUN --mount=\"a a
RUN --mount= a
RUN --device=a,b c
RUN --device=a,nmae=b c
RUN --device=a,name=b c
RUN --device=a,required=x c
