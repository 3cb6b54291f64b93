# Without looking anything up, unknown bases have the default PATH and nothing else.
#! assume-bases
FROM unknown/image:1
ENV PATH=$PATH:/more
WORKDIR rel
