FROM scratch
ONBUILD RUN <<-EOF cat
	x
 EOF
