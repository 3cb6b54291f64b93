/* Tries to get at whatever runs outside of its step. Prints a line with ESCAPED for each way that is open.
   Arguments: process numbers of the outside, which may mean nothing here. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void escaped(const char *how, int process) { printf("ESCAPED: %s of %d\n", how, process); fflush(stdout); }

static void attack(int process) {
  char path[64], buffer[64];
  if (kill(process, 0) == 0) escaped("signals", process);
  if (syscall(SYS_tgkill, process, process, 0) == 0) escaped("signals to a thread", process);
  siginfo_t info = {.si_code = SI_QUEUE};
  if (syscall(SYS_rt_sigqueueinfo, process, 0, &info) == 0) escaped("queued signals", process);
  int pidfd = syscall(SYS_pidfd_open, process, 0);
  if (pidfd >= 0) {
    if (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0) escaped("signals by pidfd", process);
    for (int fd = 0; fd < 64; fd++)
      if (syscall(SYS_pidfd_getfd, pidfd, fd, 0) >= 0) { escaped("a descriptor", process); break; }
    if (syscall(SYS_setns, pidfd, 0x00020000) == 0) escaped("the mount namespace", process);
  }
  if (ptrace(PTRACE_SEIZE, process, 0, 0) == 0) escaped("tracing", process);
  if (ptrace(PTRACE_ATTACH, process, 0, 0) == 0) escaped("attaching", process);
  struct iovec own = {buffer, 8}, theirs = {(void *)0x400000, 8};
  if (process_vm_readv(process, &own, 1, &theirs, 1, 0) >= 0 || errno == EFAULT) escaped("memory, read", process);
  if (process_vm_writev(process, &own, 1, &theirs, 1, 0) >= 0 || errno == EFAULT) escaped("memory, written", process);
  /* Without process numbers of its own, a step finds its first process at /proc/1. */
  snprintf(path, sizeof path, "/proc/%d/stat", process);
  int stat = open(path, O_RDONLY);
  if (stat >= 0 && read(stat, buffer, sizeof buffer) > 0 && atoi(buffer) != process) return;
  const char *files[] = {"mem", "environ", "maps", "fd", "root/etc", "cwd/.", "ns/mnt", "syscall", "stack", "map_files", "io"};
  for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(path, sizeof path, "/proc/%d/%s", process, files[i]);
    int fd = open(path, O_RDONLY);
    if (fd >= 0) {
      struct stat s;
      /* Directories open for root, and tell nothing. */
      DIR *dir = fstat(fd, &s) == 0 && S_ISDIR(s.st_mode) ? fdopendir(fd) : NULL;
      if (!dir && read(fd, buffer, 1) > 0) escaped(path, process);
      if (dir && strstr(path, "fd"))
        for (struct dirent *entry; (entry = readdir(dir));) {
          char link[400];
          snprintf(link, sizeof link, "%s/%s", path, entry->d_name);
          if (entry->d_name[0] != '.' && readlink(link, buffer, sizeof buffer) > 0) { escaped("descriptors", process); break; }
        }
      if (dir && strstr(path, "root")) escaped(path, process);
    }
  }
  snprintf(path, sizeof path, "/proc/%d/oom_score_adj", process);
  int fd = open(path, O_WRONLY);
  if (fd >= 0 && write(fd, "1000", 4) == 4) escaped("its score", process);
}

static int mine(int process) {
  /* What has our session or descends from us is ours. */
  for (int i = 0; i < 64 && process > 0; i++) {
    if (process == getpid() || getsid(process) == getsid(0)) return 1;
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    int fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0) return 0;
    close(fd);
    char *end = strrchr(text, ')');
    process = end ? atoi(end + 4) : 0;
  }
  return 0;
}

int main(int count, char **arguments) {
  int self = getpid();
  /* Descriptors that nobody meant to pass on. */
  for (int fd = 3; fd < 256; fd++) {
    char path[64], target[256] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (readlink(path, target, sizeof target - 1) > 0)
      printf("ESCAPED: descriptor %d is %s\n", fd, target);
  }
  for (int i = 1; i < count; i++) {
    int process = atoi(arguments[i]);
    if (!mine(process)) attack(process);
  }
  DIR *proc = opendir("/proc");
  int others = 0;
  for (struct dirent *entry; proc && (entry = readdir(proc));) {
    int process = atoi(entry->d_name);
    if (process > 0 && process != self && !mine(process)) others++, attack(process);
  }
  printf("processes of others seen: %d\n", others);

  /* Whoever holds a terminal could be typed for. */
  for (int fd = 0; fd < 3; fd++)
    if (ioctl(fd, TIOCSTI, "x") == 0) escaped("typing", fd);
  int terminal = open("/dev/tty", O_RDWR);
  if (terminal >= 0 && ioctl(terminal, TIOCSTI, "x") == 0) escaped("typing on the terminal", terminal);

  /* A listener of one's own would come before that of the supervisor. */
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  struct sock_filter code[] = {{0x06, 0, 0, 0x7fff0000}};
  struct sock_fprog program = {1, code};
  unsigned before = getuid();
  syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
  int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  if (getuid() != before) escaped("the supervisor, outdone by a filter", listener);
  if (syscall(SYS_unshare, 0x10000000) == 0) escaped("a user namespace", self);
  if (syscall(SYS_mount, "x", "/tmp", "tmpfs", 0, NULL) == 0) escaped("a mount", self);
  if (syscall(SYS_unshare, 0x00020000) == 0) escaped("a mount namespace", self);
  if (syscall(SYS_bpf, 0, NULL, 0) == 0 || errno == EFAULT) escaped("bpf", self);
  if (syscall(SYS_keyctl, 0, -3, 1) >= 0) escaped("the keyring", self);
  if (syscall(SYS_io_uring_setup, 1, NULL) >= 0 || errno == EFAULT) escaped("io_uring", self);
  if (syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, 0) >= 0 || errno == EFAULT) escaped("handles", self);
  if (syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0) >= 0 || errno == EFAULT) escaped("perf", self);
  if (syscall(SYS_kexec_load, 0, 0, NULL, 0) >= 0) escaped("kexec", self);
  return 0;
}
