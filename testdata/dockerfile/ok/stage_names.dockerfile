FROM scratch AS a-b_c.d1
FROM a as B
FROM  "quoted"   aS c
FROM scratch@sha256:0 AS scratch
