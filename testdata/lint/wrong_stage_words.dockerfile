FROM scratch az Foo and more
