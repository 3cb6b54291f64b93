FROM a b
FROM a as
FROM a as b c
FROM a of b
FROM a AS 1x
FROM a AS x/y
FROM a AS é
