FROM scratch AS context
FROM scratch AS Scratch
FROM scratch AS a
FROM scratch AS A
