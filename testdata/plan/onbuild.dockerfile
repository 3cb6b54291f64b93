# Triggers of an image and of a stage.
#! arg VERSION=1.2
FROM triggers AS image
RUN after the triggers
ONBUILD RUN trigger of the stage
ONBUILD COPY --from=image /a /b
FROM image
RUN of its own
