# escape=`
FROM scratch
ENV P=c:\a` b Q="`"" R=a``
RUN dir c:\ `
  && echo ``
COPY --chown=a`=b x\y z
