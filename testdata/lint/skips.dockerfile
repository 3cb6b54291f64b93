# check=skip=MaintainerDeprecated,StageNameCasing
FROM scratch AS A
MAINTAINER me
FROM scratch as b
