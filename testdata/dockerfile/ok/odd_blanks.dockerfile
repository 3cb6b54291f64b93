
   
  	FROM	 scratch   AS  x  
	RUN	tab
ENV	A	b	c
COPY  a	b   c  
