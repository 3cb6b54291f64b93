// Prints what calls on files give, so that two ways of running a step can be compared: names with slashes and dots at their ends,
// links, flags, descriptors that are only to look at, programs and scripts by descriptor, capabilities that are kept.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void show(const char *what, long result) {
  int error = errno;
  if (result < 0) printf("%s: %s\n", what, strerror(error));
  else printf("%s: %ld\n", what, result);
  fflush(stdout);
}

// What a call gives; and only whether it succeeds.
#define GIVES(call) do { errno = 0; show(#call, (long)(call)); } while (0)
#define WORKS(call) do { errno = 0; show(#call, (long)(call) < 0 ? -1 : 0); } while (0)

static void look(const char *name) {
  struct stat s;
  if (lstat(name, &s)) { show(name, -1); return; }
  printf("%s: %o %d:%d links %ld\n", name, s.st_mode, s.st_uid, s.st_gid, S_ISDIR(s.st_mode) ? 0 : (long)s.st_nlink);
}

static void put(const char *name, const char *text, int mode) {
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0 || write(fd, text, strlen(text)) < 0 || fchmod(fd, mode)) show(name, -1);
  close(fd);
}

static void fresh(const char *dir) {
  chdir("/files");
  mkdir(dir, 0755);
  chdir(dir);
  put("f", "text", 0644);
  put("g", "more", 0600);
  mkdir("d", 0755);
  mkdir("full", 0755);
  put("full/x", "", 0644);
  symlink("f", "to-f");
  symlink("d", "to-d");
  symlink("none", "dangling");
  symlink("loop", "loop");
}

static void names(void) {
  fresh("names");
  GIVES(mkdir("dangling/", 0700)); GIVES(mkdir("no/.", 0700)); GIVES(mkdir("d/.", 0700)); GIVES(mkdir("new/", 0700)); GIVES(mkdir("to-f", 0700));
  GIVES(rmdir("to-d/")); GIVES(rmdir("to-d")); GIVES(rmdir("d/.")); GIVES(rmdir("d/..")); GIVES(rmdir("full")); GIVES(rmdir("/proc")); GIVES(rmdir("f"));
  GIVES(unlink("to-d/")); GIVES(unlink("f/")); GIVES(unlink("d")); GIVES(unlink(".")); GIVES(unlink("/")); GIVES(unlink("/sys/kernel")); GIVES(unlinkat(AT_FDCWD, "f", 0x1234));
  GIVES(rename(".", "x")); GIVES(rename("d/.", "x")); GIVES(rename("d", "d/..")); GIVES(rename("to-d/", "x")); GIVES(rename("f", "d")); GIVES(rename("d", "f")); GIVES(rename("d", "d/in"));
  GIVES(rename("f", "/proc/x")); GIVES(rename("/proc/version", "x")); GIVES(rename("f/", "x")); GIVES(rename("f", "x/")); GIVES(rename("no", "x")); GIVES(rename("/etc/hosts", "/etc/x")); GIVES(unlink("/etc/hosts"));
  GIVES(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_NOREPLACE)); GIVES(renameat2(AT_FDCWD, "f", AT_FDCWD, "d", RENAME_EXCHANGE)); GIVES(renameat2(AT_FDCWD, "f", AT_FDCWD, "d", RENAME_EXCHANGE));
  GIVES(link("f/", "h")); GIVES(link("d", "h")); GIVES(link("f", "h/")); GIVES(link("f", "g")); GIVES(linkat(AT_FDCWD, "f", AT_FDCWD, "h", 1)); GIVES(linkat(AT_FDCWD, "dangling", AT_FDCWD, "h", AT_SYMLINK_FOLLOW)); GIVES(link("to-f", "h")); look("h"); look("f");
  char b[100];
  GIVES(readlink("to-f/", b, 100)); GIVES(readlink("to-d/", b, 100)); GIVES(readlink("to-d", b, 3)); GIVES(readlink("", b, 100)); GIVES(mknod("k", S_IFDIR | 0644, 0)); GIVES(symlink("x", "f")); GIVES(symlink("x", "s/"));
}

static void opens(void) {
  fresh("opens");
  WORKS(open("to-f", O_RDONLY)); WORKS(open("to-f", O_RDONLY | O_NOFOLLOW)); WORKS(open("to-d", O_DIRECTORY | O_NOFOLLOW)); WORKS(open("to-d/", O_DIRECTORY | O_NOFOLLOW)); WORKS(open("loop", O_RDONLY)); WORKS(open("f/", O_RDONLY)); WORKS(open("new/", O_CREAT | O_RDWR, 0600));
  WORKS(open("dangling", O_CREAT | O_EXCL | O_RDWR, 0600)); WORKS(open("dangling", O_CREAT | O_RDWR, 0640)); look("none"); WORKS(open("d", O_RDWR)); WORKS(open("d", O_CREAT, 0600)); WORKS(open("", O_CREAT, 0600)); WORKS(openat(-5, "f", O_RDONLY));
  char b[100];
  int fd = open("to-f", O_PATH | O_NOFOLLOW);
  GIVES(fchmod(fd, 0600)); GIVES(fchown(fd, 1, 1)); GIVES(fgetxattr(fd, "user.x", b, 100)); GIVES(readlinkat(fd, "", b, 100));
  fd = open("f", O_PATH);
  GIVES(fchmod(fd, 0600)); GIVES(fsetxattr(fd, "user.x", "", 0, 0)); GIVES(fchownat(fd, "", 3, 4, AT_EMPTY_PATH)); look("f");
  // By the link in `/proc`, as programs do where calls by descriptor fail.
  snprintf(b, 100, "/proc/self/fd/%d", fd);
  WORKS(chmod(b, 04711)); look("f"); WORKS(chown(b, 5, 6)); look("f"); WORKS(setxattr(b, "user.y", "1", 1, 0)); GIVES(getxattr("f", "user.y", NULL, 0));
  GIVES(fchmodat(AT_FDCWD, "to-f", 0640, AT_SYMLINK_NOFOLLOW)); GIVES(fchownat(AT_FDCWD, "f", 1, 1, 8)); GIVES(utimensat(AT_FDCWD, "f", NULL, 1));
  struct statx x;
  struct stat s;
  GIVES(statx(AT_FDCWD, "f", 0x40000, 0, &x)); GIVES(statx(AT_FDCWD, "f", AT_STATX_SYNC_TYPE, STATX_ALL, &x)); GIVES(statx(AT_FDCWD, "f", 0, 0x80000000, &x)); GIVES(fstatat(AT_FDCWD, "f", &s, 1)); GIVES(stat("f", (void *)1)); GIVES(stat("f", (void *)names));
}

static void capabilities(void) {
  static const unsigned char net_raw[20] = {1, 0, 0, 2, 0, 32};
  fresh("capabilities");
  chmod("f", 0755);
  GIVES(setxattr("f", "security.capability", "bad", 3, 0)); GIVES(setxattr("f", "security.capability", net_raw, 20, 0)); GIVES(getxattr("f", "security.capability", NULL, 0));
  GIVES(truncate("f", 1)); GIVES(getxattr("f", "security.capability", NULL, 0));
  // An empty one is there, but cannot be read.
  chmod("g", 0755);
  GIVES(setxattr("g", "security.capability", "", 0, 0)); GIVES(getxattr("g", "security.capability", NULL, 0)); GIVES(listxattr("g", NULL, 0));
  GIVES(prctl(PR_CAPBSET_READ, 0, 0, 0, 0)); GIVES(prctl(PR_CAPBSET_READ, 99, 0, 0, 0)); GIVES(prctl(PR_SET_KEEPCAPS, 2, 0, 0, 0)); GIVES(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
  fflush(stdout);
  if (!fork()) {
    GIVES(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)); GIVES(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0)); GIVES(setresuid(1000, 1000, 1000)); GIVES(getuid());
    _exit(0);
  }
  wait(NULL);
  if (!fork()) {
    chmod(".", 0777);
    setresgid(1000, 1000, 1000);
    setresuid(1000, 1000, 1000);
    GIVES(setresgid(0, 0, 0)); GIVES(link("g", "mine")); WORKS(open("f", O_RDONLY | O_NOATIME)); GIVES(kill(getppid(), 0)); GIVES(kill(getpid(), 0)); GIVES(prctl(PR_CAPBSET_DROP, 5, 0, 0, 0));
    _exit(0);
  }
  wait(NULL);
}

static int fd;
static char *const arguments[] = {"zero", "one", "", "two words", NULL};

static void start(const char *what, const char *path, int flags) {
  fflush(stdout);
  pid_t child = fork();
  if (!child) {
    syscall(SYS_execveat, fd, path, arguments, environ, flags);
    show(what, -1);
    _exit(100);
  }
  int status;
  waitpid(child, &status, 0);
  printf("%s: status %x\n", what, status);
  fflush(stdout);
}

static void programs(void) {
  fresh("programs");
  char text[400];
  put("script", "#!/bin/sh\necho \"$0 $# $1|$2|$3\"; exit 4\n", 0755);
  put("nested", "#!./script a b\n", 0755);
  put("none", "#!/no/such\n", 0755);
  memset(text, 'l', 399);
  text[399] = 0;
  memcpy(text, "#!/bin/echo ", 12);
  put("long", text, 0755);
  memcpy(text, "#!/", 3);
  memset(text + 3, 'l', 10);
  put("unknown", text, 0755);
  symlink("script", "link");
  fd = AT_FDCWD;
  start("by name", "./script", 0); start("nested", "./nested", 0); start("none", "./none", 0); start("long", "./long", 0); start("unknown", "./unknown", 0); start("with a slash", "script/", 0); start("directory", "d", 0); start("link", "link", 0); start("link not followed", "link", AT_SYMLINK_NOFOLLOW); start("of proc", "/proc/version", 0);
  fd = open("script", O_RDONLY); start("script by descriptor", "", AT_EMPTY_PATH);
  fd = open("script", O_RDONLY | O_CLOEXEC); start("closed script", "", AT_EMPTY_PATH);
  fd = open("/bin/echo", O_RDONLY | O_CLOEXEC); start("by descriptor", "", AT_EMPTY_PATH);
  fd = open(".", O_RDONLY | O_CLOEXEC); start("in a closed directory", "script", 0);
  int from = open("/bin/echo", O_RDONLY);
  fd = memfd_create("copy", MFD_CLOEXEC);
  while (sendfile(fd, from, NULL, 1 << 20) > 0);
  start("in memory", "", AT_EMPTY_PATH);
}

static void limits(void) {
  fresh("limits");
  struct statfs s;
  int shm = open("/dev/shm", O_RDONLY), proc = open("/proc/version", O_RDONLY), root = open("/", O_RDONLY);
  GIVES(fstatfs(shm, &s)); printf("%lx %lu\n", (long)s.f_type, (long)(s.f_blocks * s.f_bsize));
  GIVES(fstatfs(proc, &s)); printf("%lx\n", (long)s.f_type);
  GIVES(fstatfs(root, (void *)8)); GIVES(fstatfs(99, &s));
  fflush(stdout);
  if (!fork()) {
    struct rlimit small = {100, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &small);
    GIVES(truncate("f", 100)); GIVES(truncate("f", 10));
    signal(SIGXFSZ, SIG_IGN);
    GIVES(truncate("f", 101)); look("f");
    fflush(stdout);
    signal(SIGXFSZ, SIG_DFL);
    truncate("f", 1000);
    _exit(0);
  }
  int status;
  wait(&status);
  printf("ended with %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
  fflush(stdout);
  if (!fork()) {
    struct rlimit none = {3, 3};
    setrlimit(RLIMIT_NOFILE, &none);
    WORKS(open("f", O_RDONLY)); show("chdir without descriptors", chdir("d")); GIVES(chdir("no"));
    fd = AT_FDCWD;
    start("echo without descriptors", "/bin/echo", 0); start("none without descriptors", "./no", 0);
    start("script without descriptors", "/files/programs/script", 0);
    _exit(0);
  }
  wait(NULL);
}

// `pam_limits` sets all limits, also that which carries who a process is.
static void identities(void) {
  fresh("identities");
  if (!fork()) {
    static const gid_t groups[] = {7, 8};
    struct rlimit real_time;
    gid_t told[10];
    GIVES(setgroups(2, groups)); GIVES(setresgid(5, 6, 7));
    GIVES(getrlimit(RLIMIT_RTTIME, &real_time)); printf("%d %d\n", real_time.rlim_cur == RLIM_INFINITY, real_time.rlim_max == RLIM_INFINITY);
    GIVES(setrlimit(RLIMIT_RTTIME, &real_time)); GIVES(setrlimit(RLIMIT_RTTIME, (void *)8)); GIVES(prlimit(0, RLIMIT_RTTIME, NULL, (void *)8)); GIVES(prlimit(getpid(), RLIMIT_NOFILE, NULL, &real_time));
    GIVES(getgid()); GIVES(getegid()); GIVES(getgroups(10, told)); printf("%d %d\n", told[0], told[1]);
    _exit(0);
  }
  wait(NULL);
  static const unsigned char list[28] = {2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255};
  chown("g", 12, 13);
  look("g"); GIVES(setxattr("g", "system.posix_acl_access", list, 28, 0)); look("g");
  if (!fork()) {
    setresuid(1000, 1000, 1000);
    GIVES(setxattr("g", "system.posix_acl_access", list, 28, 0));
    _exit(0);
  }
  wait(NULL);
}

// Inodes come back as other files, with nothing of what they were.
static void looks(void) {
  fresh("looks");
  struct stat s;
  int others = 0;
  for (int i = 1; i <= 100; i++) {
    int file = open("made", O_CREAT | O_EXCL | O_RDWR, 0600);
    others += fchown(file, i, i) || fchmod(file, 04711) || fstat(file, &s) || s.st_uid != i || s.st_mode != (S_IFREG | 04711);
    if (i % 2) unlink("made"); else rename("f", "made");
    others += fstat(file, &s) || s.st_uid != i || s.st_nlink != 0;
    close(file);
    mkdir("dir", 0700); chown("dir", i, 0); rmdir("dir");
    int nameless = open(".", O_TMPFILE | O_RDWR, 0640);
    others += nameless >= 0 && (fstat(nameless, &s) || s.st_uid != 0 || s.st_mode != (S_IFREG | 0640));
    close(nameless);
    put("f", "new", 0644);
    others += stat("f", &s) || s.st_uid != 0 || s.st_mode != (S_IFREG | 0644);
    unlink("made");
    mkdir("dir", 0755);
    others += stat("dir", &s) || s.st_uid != 0 || s.st_mode != (S_IFDIR | 0755);
    rmdir("dir");
  }
  printf("others: %d\n", others);
}

static void told(const char *what, int result, const struct sockaddr_un *a, socklen_t length) {
  if (result) show(what, -1);
  else printf("%s: %u %.*s\n", what, length, length > 2 ? (int)(length - 2) : 0, a->sun_path);
}

// The first process of a step connects while others of its children end.
static void sockets(void) {
  fresh("sockets");
  struct sockaddr_un a = {AF_UNIX, "d/socket"}, b;
  socklen_t length = sizeof b;
  int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
  told("unbound", getsockname(server, (void *)&b, &length), &b, length);
  GIVES(bind(server, (void *)&a, sizeof a)); GIVES(listen(server, 100));
  length = sizeof b; told("bound", getsockname(server, (void *)&b, &length), &b, length);
  length = 5; told("short", getsockname(server, (void *)&b, &length), &b, 5); printf("%u\n", length);
  length = sizeof b; told("unconnected", getpeername(client, (void *)&b, &length), &b, length);
  GIVES(connect(client, (void *)&a, sizeof a));
  length = sizeof b; told("peer", getpeername(client, (void *)&b, &length), &b, length);
  length = sizeof b; told("client", getsockname(client, (void *)&b, &length), &b, length);
  GIVES(getsockname(99, (void *)&b, &length)); GIVES(getsockname(server, (void *)&b, (void *)8));
  show("audit", socket(AF_NETLINK, SOCK_RAW, 9) >= 0 || errno == EPROTONOSUPPORT);
  pid_t accepting = fork();
  if (!accepting) for (;;) close(accept(server, NULL, NULL));
  pid_t ending = fork();
  if (!ending) for (;;) {
    if (!fork()) _exit(0);
    wait(NULL);
  }
  int connected = 0;
  for (int i = 0; i < 1000; i++) {
    close(client);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    connected += !connect(client, (void *)&a, sizeof a);
  }
  printf("connected: %d\n", connected);
  kill(accepting, SIGKILL);
  kill(ending, SIGKILL);
  while (wait(NULL) > 0);
}

int main(void) {
  mkdir("/files", 0755);
  umask(022);
  names();
  opens();
  capabilities();
  programs();
  limits();
  identities();
  looks();
  sockets();
  return 0;
}
