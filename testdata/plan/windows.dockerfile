# escape=`
#! platform windows/amd64
FROM scratch
WORKDIR C:\app
COPY a.txt sub\
SHELL ["powershell", "-command"]
CMD start
