# check=error=true
FROM scratch as A
MAINTAINER me
