FROM scratch
RUN echo $((1<<3)) && echo "<<EOF" '<<EOF' \<\<EOF
RUN cat <<<word
RUN echo a<<b
RUN ["sh", "-c", "cat <<EOF"]
CMD cat <<EOF
LABEL a=<<EOF
RUN <<
RUN it's <<EOF
