# check=error=perhaps
FROM scratch
