# check=skip=all;experimental=InvalidDefinitionDescription
# x
FROM scratch as A
MAINTAINER me
