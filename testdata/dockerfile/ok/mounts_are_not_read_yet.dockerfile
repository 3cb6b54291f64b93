FROM scratch
RUN --mount=type=$T,nonsense=1 --mount=from=a$ --mount=from=stage,target=$X make
