from scratch as x
run make
copy --from=x a b
healthcheck cmd true
onbuild run make
Cmd ["a"]
