# escape = ``
FROM scratch
