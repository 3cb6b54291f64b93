FROM scratch
VOLUME [""]
VOLUME ["a", "  "]
