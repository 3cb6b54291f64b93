FROM scratch
# check=skip=MaintainerDeprecated
MAINTAINER one
# a comment
# Check = skip=all other words
MAINTAINER two
# check=nonsense
MAINTAINER three
# check=experimental=all
# nothing
ARG x
