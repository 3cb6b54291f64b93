# Without the bases, what is wrong in a stage is a warning, and the rest is planned.
#! assume-bases
FROM $undeclared AS a
FROM Wrong::name AS b
LABEL maintainer some \\"body
ENV from_base=${BASE_VERSION:?unset} two="open
ADD \conf\\" /.conf
COPY --from=$stage x /y
EXPOSE nothing
RUN --mount=type=odd true
RUN --mount=type=cache,target=${CACHE:?} true
FROM --platform=${undeclared} b
STOPSIGNAL SIGNOPE
WORKDIR "/w
COPY --from=a /f /f
COPY --from=$stage x /y
