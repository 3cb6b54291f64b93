from scratch
# check=skip=FromAsCasing
from scratch AS Foo!
