FROM scratch
RUN a \
  # a comment
	# another
  b \  

  c\\
RUN \
  d
RUN e \ f
RUN "g \
h"
ENV A=1 \
    B=2
\
RUN i
RUN j \
