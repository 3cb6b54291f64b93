/* Does as a step what depends on users and owners, and prints what came of it: the same on every isolation.
   Static, at low addresses, so that it can make the system calls of 32-bit programs, too. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void tell(const char *what, long result) {
  int error = errno;
  printf("%-44s %s\n", what, result < 0 ? strerrorname_np(error) : "ok");
  fflush(stdout);
  errno = error;
}

static void owner(const char *path) {
  struct stat s;
  struct statx x;
  if (lstat(path, &s)) {
    tell(path, -1);
    return;
  }
  printf("%-44s %u:%u %o", path, s.st_uid, s.st_gid, s.st_mode);
  if (S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode)) printf(" %u,%u", major(s.st_rdev), minor(s.st_rdev));
  int different = statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x) || x.stx_uid != s.st_uid ||
                  x.stx_gid != s.st_gid || x.stx_mode != s.st_mode || x.stx_rdev_minor != minor(s.st_rdev);
  printf("%s\n", different ? " statx differs" : "");
}

static void attributes(const char *path) {
  char names[4096], value[256];
  ssize_t n = llistxattr(path, names, sizeof names);
  if (n != llistxattr(path, NULL, 0)) printf("%s: its list is not as long as it says\n", path);
  printf("%-44s attributes", path);
  for (char *name = names; name < names + n; name += strlen(name) + 1) {
    ssize_t size = lgetxattr(path, name, value, sizeof value);
    printf(" %s=%zd", name, size);
  }
  printf("\n");
  tell("  of ours", lgetxattr(path, "user.containers.override_stat", value, sizeof value));
  tell("  of ours, removed", removexattr(path, "user.containers.override_stat"));
}

static void put(const char *path, mode_t mode, uid_t uid, gid_t gid) {
  int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
  if (fd < 0 || write(fd, "text\n", 5) != 5 || close(fd) || chown(path, uid, gid) || chmod(path, mode)) tell(path, -1);
}

static int try(const char *path, int flags) {
  int fd = open(path, flags, 0644);
  if (fd >= 0) close(fd);
  return fd;
}

static void as_user(void) {
  tell("open root's secret", try("/t/secret", O_RDONLY));
  tell("open root's secret by O_PATH", try("/t/secret", O_PATH));
  tell("write root's file", try("/t/open", O_WRONLY));
  tell("read root's file", try("/t/open", O_RDONLY));
  tell("truncate on opening", try("/t/open", O_RDONLY | O_TRUNC));
  tell("read by the group", try("/t/grouped", O_RDONLY));
  tell("read another group's", try("/t/foreign", O_RDONLY));
  tell("append to own", try("/t/own", O_WRONLY | O_APPEND));
  tell("read own without permission", try("/t/own-shut", O_RDONLY));
  tell("stat in a closed directory", access("/t/closed/file", F_OK));
  tell("open in a closed directory", try("/t/closed/file", O_RDONLY));
  tell("through a link into it", try("/t/into", O_RDONLY));
  tell("dangling link", try("/t/dangling", O_RDONLY));
  tell("a file as a directory", try("/t/open/x", O_RDONLY));
  tell("what is not there", try("/t/none", O_RDONLY));
  tell("go into it", chdir("/t/closed"));
  tell("access for reading", access("/t/secret", R_OK));
  tell("access for executing", access("/t/open", X_OK));
  tell("access of own for writing", access("/t/own", W_OK));
  tell("create in root's directory", try("/t/new", O_CREAT | O_WRONLY));
  tell("create over a closed file", try("/t/secret", O_CREAT | O_WRONLY));
  tell("create what is there, exclusively", try("/t/secret", O_CREAT | O_EXCL | O_WRONLY));
  tell("mkdir in root's directory", mkdir("/t/dir", 0755));
  tell("mkdir of what is there", mkdir("/t/closed", 0755));
  tell("symlink in root's directory", symlink("x", "/t/sym"));
  tell("link in root's directory", link("/t/own", "/t/own2"));
  tell("unlink in root's directory", unlink("/t/own"));
  tell("rename in root's directory", rename("/t/own", "/t/owned"));
  tell("unlink root's in a sticky directory", unlink("/t/sticky/root"));
  tell("unlink own in a sticky directory", unlink("/t/sticky/own"));
  tell("rename root's in a sticky directory", rename("/t/sticky/root", "/t/sticky/x"));
  tell("chmod root's", chmod("/t/open", 0777));
  tell("chmod own", chmod("/t/own", 0604));
  tell("fchmodat2 of root's", syscall(452, AT_FDCWD, "/t/open", 0777, AT_SYMLINK_NOFOLLOW));
  tell("chown root's", chown("/t/open", 1000, 1000));
  tell("give own away", chown("/t/own", 0, -1));
  tell("give own to a group of mine", chown("/t/own", -1, 27));
  tell("touch root's", utimensat(AT_FDCWD, "/t/open", NULL, 0));
  struct timespec then[2] = {{1, 0}, {1, 0}}, now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  tell("date root's", utimensat(AT_FDCWD, "/t/open", then, 0));
  tell("date what anybody may write", utimensat(AT_FDCWD, "/t/writable", then, 0));
  tell("touch what anybody may write", utimensat(AT_FDCWD, "/t/writable", now, 0));
  tell("date own", utimensat(AT_FDCWD, "/t/own", then, 0));
  tell("truncate root's", truncate("/t/open", 0));
  tell("setxattr of root's", setxattr("/t/open", "user.a", "1", 1, 0));
  tell("capability of own", setxattr("/t/own", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
  tell("chroot", chroot("/t"));
  tell("mknod of a device", mknod("/t/home/null", S_IFCHR | 0666, makedev(1, 3)));
  execl("/t/shut-program", "x", NULL);
  tell("execute what is not executable for me", -1);
  tell("setuid(0)", setuid(0));
  tell("setgroups", setgroups(0, NULL));
  tell("seteuid to mine", seteuid(1000));

  umask(027);
  tell("chdir to mine", chdir("/t/home"));
  tell("create in mine", try("file", O_CREAT | O_EXCL | O_RDWR));
  tell("mkdir in mine", mkdir("dir", 0777));
  tell("symlink in mine", symlink("file", "link"));
  tell("pipe in mine", mkfifo("pipe", 0666));
  struct open_how how = {.flags = O_CREAT | O_WRONLY, .mode = 0640};
  tell("openat2 in mine", syscall(SYS_openat2, AT_FDCWD, "opened", &how, sizeof how));
  int fd = open(".", O_TMPFILE | O_RDWR, 0644);
  tell("nameless in mine", fd);
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  tell("and its name", linkat(AT_FDCWD, name, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
  tell("nameless in root's", try("/t", O_TMPFILE | O_RDWR));
  tell("link in mine", link("link", "link2"));
  tell("rename in mine", rename("link", "moved"));
  tell("rmdir in mine", rmdir("dir"));
  tell("open by /proc", try("/proc/self/status", O_RDONLY));
  tell("write to /dev/null", try("/dev/null", O_WRONLY));
}

static int calls32;
static void no32(int signal) { (void)signal; calls32 = -1; _exit(9); }

/* The same for a program of 32 bits, by its own gate into the kernel. */
static long call32(long number, long a, long b, long c) {
#ifdef __x86_64__
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
  result = (int)result;
  if (result < 0) {
    errno = -result;
    return -1;
  }
  return result;
#else
  (void)number, (void)a, (void)b, (void)c;
  errno = ENOSYS;
  return -1;
#endif
}
static char path32[] = "/t/of32", secret32[] = "/t/secret";
static unsigned char stat32[96];

static void of_32_bits(void) {
  signal(SIGSEGV, no32);
  put(path32, 0640, 0, 0);
  tell("32: chown", call32(212, (long)path32, 77, 88));
  tell("32: stat", call32(195, (long)path32, (long)stat32, 0));
  printf("32: owner %u:%u mode %o size %u\n", *(unsigned *)(stat32 + 24), *(unsigned *)(stat32 + 28), *(unsigned *)(stat32 + 16), *(unsigned *)(stat32 + 44));
  tell("32: setresuid", call32(208, 1000, 1000, 1000));
  printf("32: uid %ld\n", call32(199, 0, 0, 0));
  tell("32: open root's secret", call32(5, (long)secret32, O_RDONLY, 0));
  tell("32: setuid(0)", call32(213, 0, 0, 0));
}

/* The server of a socket is root, its client a user. */
static void peer(const char *what, int socket, pid_t expected) {
  struct ucred other = {0};
  socklen_t length = sizeof other;
  tell(what, getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &other, &length));
  printf("%s is %u:%u%s\n", what, other.uid, other.gid, length == sizeof other && other.pid == expected ? "" : " and another process");
  fflush(stdout);
}

static void peers(void) {
  struct sockaddr_un at = {AF_UNIX, "/t/socket"};
  int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  char byte = 0;
  if (bind(server, (void *)&at, sizeof at) || chmod(at.sun_path, 0666) || listen(server, 1)) tell("listen", -1);
  pid_t child = fork();
  if (child == 0) {
    if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) tell("become a user", -1);
    if (connect(client, (void *)&at, sizeof at) || read(client, &byte, 1) != 1) tell("connect", -1);
    peer("the server", client, getppid());
    struct sockaddr_un own = {AF_UNIX, "/t/home/socket"};
    tell("a user's socket", bind(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), (void *)&own, sizeof own));
    tell("its mode", chmod(own.sun_path, 0700));
    owner(own.sun_path);
    unlink(own.sun_path);
    _exit(0);
  }
  int connection = accept(server, NULL, NULL);
  peer("the client", connection, child);
  if (write(connection, &byte, 1) != 1) tell("write", -1);
  waitpid(child, NULL, 0);
  unlink(at.sun_path);
}

static void keeper(void) {
  tell("keep capabilities", prctl(PR_SET_KEEPCAPS, 1));
  tell("become a user", setresuid(1000, 1000, 1000));
  struct __user_cap_header_struct of = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct all[2];
  if (syscall(SYS_capget, &of, all)) tell("capget", -1);
  for (int i = 0; i < 2; i++) all[i].effective = all[i].permitted;
  tell("use them", syscall(SYS_capset, &of, all));
  tell("and then of a group", setresgid(1000, 1000, 1000));
}

static void in_child(void (*action)(void), int become) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    gid_t groups[] = {27, 28};
    if (become && (setgroups(2, groups) || setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))) tell("become a user", -1);
    action();
    fflush(stdout);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status) printf("ended with %x\n", status);
}

int main(int count, char **arguments) {
  (void)arguments;
  umask(022);
  if (count > 1) { /* As USER of the image. */
    printf("%u %u %u %u\n", getuid(), geteuid(), getgid(), getegid());
    tell("as USER: open root's secret", try("/t/secret", O_RDONLY));
    tell("as USER: create", try("mine", O_CREAT | O_WRONLY));
    owner("mine");
    owner(".");
    return 0;
  }
  mkdir("/t", 0755);
  put("/t/secret", 0600, 0, 0);
  put("/t/open", 0644, 0, 0);
  put("/t/writable", 0666, 0, 0);
  put("/t/grouped", 0640, 0, 27);
  put("/t/foreign", 0640, 0, 29);
  put("/t/own", 0644, 1000, 1000);
  put("/t/own-shut", 0077, 1000, 1000);
  put("/t/shut-program", 0744, 0, 0);
  mkdir("/t/closed", 0700), put("/t/closed/file", 0644, 0, 0);
  mkdir("/t/sticky", 0755), chmod("/t/sticky", 01777), put("/t/sticky/root", 0666, 0, 0), put("/t/sticky/own", 0600, 1000, 0);
  mkdir("/t/home", 0750), chown("/t/home", 1000, 1000);
  symlink("closed/file", "/t/into"), symlink("nothing", "/t/dangling");
  in_child(as_user, 1);
  const char *left[] = {"/t/own", "/t/sticky/root", "/t/home/file", "/t/home/moved", "/t/home/link2", "/t/home/pipe", "/t/home/opened", "/t/home/named"};
  for (unsigned i = 0; i < sizeof left / sizeof *left; i++) owner(left[i]);

  /* Records and names. */
  mkdir("/t/names", 0755), mkdir("/t/names/dir", 0755);
  symlink("x", "/t/names/dir/link"), lchown("/t/names/dir/link", 7, 8);
  tell("rename a directory", rename("/t/names/dir", "/t/names/new"));
  owner("/t/names/new/link");
  tell("a link again", link("/t/names/new/link", "/t/names/again"));
  owner("/t/names/again");
  mkdir("/t/names/dir", 0755), symlink("x", "/t/names/dir/link");
  owner("/t/names/dir/link");
  unlink("/t/names/again"), symlink("x", "/t/names/again");
  owner("/t/names/again");
  symlink("y", "/t/names/other"), lchown("/t/names/other", 9, 9);
  tell("exchange", renameat2(AT_FDCWD, "/t/names/again", AT_FDCWD, "/t/names/other", RENAME_EXCHANGE));
  owner("/t/names/again"), owner("/t/names/other");
  tell("rename over", rename("/t/names/other", "/t/names/again"));
  owner("/t/names/again");
  int at = open("/t/own", O_PATH);
  tell("chown by descriptor", fchownat(at, "", 70, 71, AT_EMPTY_PATH));
  owner("/t/own");
  put("/t/hard", 04755, 0, 0), link("/t/hard", "/t/hard2");
  tell("chown takes set-user-ID away", chown("/t/hard", 5, 6));
  owner("/t/hard2");

  /* Devices and attributes. */
  tell("device", mknod("/t/null", S_IFCHR | 0666, makedev(1, 3)));
  owner("/t/null");
  unlink("/t/null");
  attributes("/t/hard");
  attributes("/t/home/link2");
  tell("own attribute", setxattr("/t/hard", "user.mine", "abc", 3, 0));
  attributes("/t/hard");
  const char capability[] = "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0";
  tell("capability", setxattr("/t/hard", "security.capability", capability, 20, 0));
  attributes("/t/hard");
  put("/t/copy", 0644, 0, 0); /* What cp -a does. */
  char names[4096], value[256];
  ssize_t n = listxattr("/t/hard", names, sizeof names);
  for (char *name = names; name < names + n; name += strlen(name) + 1) {
    ssize_t size = getxattr("/t/hard", name, value, sizeof value);
    tell(name, setxattr("/t/copy", name, value, size, 0));
  }
  owner("/t/copy");
  attributes("/t/copy");
  tell("listxattrat", syscall(465, AT_FDCWD, "/t/copy", 0, names, sizeof names));
  in_child(of_32_bits, 0);
  in_child(peers, 0);
  in_child(keeper, 0);
  owner(path32);
  return 0;
}
