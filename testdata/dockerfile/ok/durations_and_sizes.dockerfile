FROM scratch
HEALTHCHECK --interval=1.5h --timeout=100us10ms --start-period=+1s --start-interval=0 --retries=0 CMD a
HEALTHCHECK --interval= --retries= CMD a
