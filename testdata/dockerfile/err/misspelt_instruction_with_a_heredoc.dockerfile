FROM scratch
RUM <<EOF
COPPY that
EOF
CPY a b
