FROM scratch
RUN <<EOF
echo a
# not a comment

  echo \
EOF
RUN <<-"E O F" cat
	tab
	E O F
RUN python3 <<A 3<<'B' && cat <<C
a $x
A
b $x
B
C
COPY <<one <<-'two' three /dst/
1 $x
one
	2
	two
ADD --chmod=0600 <<EOF /file
EOF
COPY << EOF /
a blank in front of the word
EOF
ONBUILD RUN <<EOF cat
later
EOF
ONBUILD COPY <<EOF /x
$later
EOF
RUN << EOF
spaced
EOF
