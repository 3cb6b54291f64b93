# An image for one other platform decides what the result says, unless a platform is asked for.
FROM arm-only
WORKDIR /x
