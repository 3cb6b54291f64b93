# An image without layers counts as a step but has no line in progress.
FROM no-layers
RUN true
