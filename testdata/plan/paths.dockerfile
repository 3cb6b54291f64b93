# How working directories and destinations are joined.
FROM golang:1.22
COPY a .
WORKDIR src
WORKDIR ../x/./y/
COPY a b/
WORKDIR "/abs/../olute/"
COPY a b c/.
WORKDIR rel
USER 1000:1000
WORKDIR deeper
ADD ["a b", "$GOPATH/q", "d"]
WORKDIR /
RUN pwd
