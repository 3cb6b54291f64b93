FROM scratch
maintainer
FROM scratch As Foo!
