/* SPDX-License-Identifier: MIT */
#include "fs/mount.h"

#include "fs/loop.h"

#include <fcntl.h>
#include <libgen.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define FS_TYPE "fuse.dvolfs"

extern char **environ;

struct mount {
    struct fuse_session *session;
    bool mounted;
    bool handles_signals;
};

/* ---- the mountpoint ------------------------------------------------------------------ */

/* realpath(3) of the parent, and the last name: what a dead mountpoint's path is. */
static char *path_of_dead(const char *mountpoint)
{
    cleanup_free char *copy = strdup(mountpoint);
    cleanup_free char *again = strdup(mountpoint);
    if (!copy || !again)
        return NULL;
    cleanup_free char *parent = realpath(dirname(copy), NULL);
    char *path = NULL;
    if (!parent ||
        asprintf(&path, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, basename(again)) < 0)
        return NULL;
    return path;
}

/* Space, tab, newline and backslash are written \ooo there (getmntent(3)). */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* Whether /proc/self/mounts (proc(5), fstab(5)) has a mount of ours at path. */
static bool is_ours(const char *path)
{
    FILE *mounts = fopen("/proc/self/mounts", "re");
    if (!mounts)
        return false;
    cleanup_free char *line = NULL;
    size_t room = 0;
    bool ours = false;
    char *source = NULL, *dir = NULL, *type = NULL;
    while (getline(&line, &room, mounts) >= 0) {
        char *rest = line;
        source = strsep(&rest, " ");
        dir = strsep(&rest, " ");
        type = strsep(&rest, " ");
        if (!source || !dir || !type)
            continue;
        unescape(dir);
        if (strcmp(dir, path) == 0)
            ours = strcmp(type, FS_TYPE) == 0;
    }
    (void)fclose(mounts);
    return ours;
}

static int detach(const char *path)
{
    if (umount2(path, MNT_DETACH) == 0)
        return 0;
    if (geteuid() == 0)
        return -errno;
    const char *argv[] = {"fusermount3", "-u", "-z", "-q", "--", path, NULL};
    pid_t pid;
    int status;
    /* posix_spawn(3) does not write to argv; its type is older than const. */
    if (posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ) != 0 ||
        waitpid(pid, &status, 0) != pid || status != 0)
        return -EPERM;
    return 0;
}

static int clear_dead(const char *mountpoint, struct fail *why)
{
    cleanup_free char *path = path_of_dead(mountpoint);
    int r = path && is_ours(path) ? detach(path) : -ENOTCONN;
    if (r < 0)
        return fail_set(why, ENOTCONN, "%s: a dead mount is in the way; end it with umount -l %s",
                        mountpoint, mountpoint);
    return 0;
}

/* The kernel may answer stat(2) for a while after the daemon's death, but always asks for
 * statvfs(3) (Linux, fs/fuse/inode.c, fuse_statfs). */
static bool is_dead(const char *mountpoint)
{
    struct statvfs ignored;
    return statvfs(mountpoint, &ignored) < 0 &&
           (errno == ENOTCONN || errno == ECONNABORTED); /* the latter while it is dying */
}

int mount_prepare(const char *mountpoint, char **ret_path, struct fail *why)
{
    struct stat st;
    int r = is_dead(mountpoint) ? clear_dead(mountpoint, why) : 0;
    if (r < 0)
        return r;
    if (stat(mountpoint, &st) < 0)
        return fail_errno(why, errno, "mountpoint %s", mountpoint);
    if (!S_ISDIR(st.st_mode))
        return fail_set(why, ENOTDIR, "mountpoint %s is not a directory", mountpoint);
    cleanup_free char *path = realpath(mountpoint, NULL);
    if (!path)
        return fail_errno(why, errno, "mountpoint %s", mountpoint);
    if (is_ours(path))
        return fail_set(why, EBUSY, "mountpoint %s has dvolfs mounted already", mountpoint);
    *ret_path = take(path);
    return 0;
}

/* ---- mounting -------------------------------------------------------------------------- */

/* What libfuse and fusermount3 have to say goes to stderr: caught, so that one
 * sentence can be made of it. */
struct capture {
    int saved;
    int pipe[2];
};

static bool capture_begin(struct capture *capture)
{
    capture->saved = dup(STDERR_FILENO);
    if (capture->saved < 0)
        return false;
    if (pipe2(capture->pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
        (void)close(capture->saved);
        return false;
    }
    (void)dup2(capture->pipe[1], STDERR_FILENO);
    return true;
}

/* Without the last newline; cut at the first. */
static void capture_end(struct capture *capture, char *text, size_t room)
{
    (void)dup2(capture->saved, STDERR_FILENO);
    (void)close(capture->saved);
    (void)close(capture->pipe[1]);
    ssize_t n = read(capture->pipe[0], text, room - 1);
    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    (void)close(capture->pipe[0]);
}

/*
 * Lets the kernel read further ahead than its 128 KiB: fewer and larger requests.
 * Root's to set, and only for speed.  Not by stat(2), which would wait for
 * ourselves: the device number is in /proc/self/mountinfo (proc(5)).
 */
static void read_further_ahead(const char *path)
{
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    cleanup_free char *line = NULL;
    size_t room = 0;
    char name[128] = "";
    while (mounts && getline(&line, &room, mounts) >= 0) {
        unsigned major, minor;
        char dir[4096];
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major, &minor, dir) != 3)
            continue;
        unescape(dir);
        if (strcmp(dir, path) == 0)
            (void)snprintf(name, sizeof(name), "/sys/class/bdi/%u:%u/read_ahead_kb", major, minor);
    }
    if (mounts)
        (void)fclose(mounts);
    FILE *setting = name[0] ? fopen(name, "we") : NULL;
    if (!setting)
        return;
    (void)fprintf(setting, "%d\n", NODE_AHEAD_BYTES / 1024);
    (void)fclose(setting);
}

static int mount_captured(struct mount *mount, const char *path, struct fail *why)
{
    struct capture capture;
    char text[512] = "";
    bool captured = capture_begin(&capture);
    int r = fuse_session_mount(mount->session, path);
    if (captured)
        capture_end(&capture, text, sizeof(text));
    if (r != 0)
        return fail_set(why, EPERM, "cannot mount at %s: %s", path,
                        text[0] ? text : "libfuse does not say why");
    mount->mounted = true;
    read_further_ahead(path);
    return 0;
}

/* A value of -o with its commas and backslashes escaped. */
static int add_escaped(struct buf *out, const char *value)
{
    int r = 0;
    for (; *value && r == 0; value++) {
        if (*value == ',' || *value == '\\')
            r = buf_add(out, "\\", 1);
        if (r == 0)
            r = buf_add(out, value, 1);
    }
    return r;
}

static int make_session(const struct config *config, struct front *front, struct mount *mount,
                        struct fail *why)
{
    struct buf options cleanup_buf;
    buf_init(&options, 65536);
    int r = buf_printf(&options, "-osubtype=dvolfs,%sfsname=",
                       option_kernel_checks(config) ? "default_permissions," : "");
    if (r == 0)
        r = add_escaped(&options, config->spec);
    if (r == 0)
        r = buf_add_string(&options, buf_string(&config->fuse_options));
    if (r < 0)
        return fail_errno(why, -r, "options");
    char program[] = "mount.dvolfs";
    char *argv[] = {program, options.data, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, argv);
    mount->session = fuse_session_new(&args, &ops_table, sizeof(ops_table), front);
    fuse_opt_free_args(&args);
    front->session = mount->session;
    return mount->session ? 0 : fail_set(why, EINVAL, "libfuse does not take the options");
}

DEFINE_CLEANUP(cleanup_mount_impl, struct mount, mount_close)

int mount_open(const struct config *config, const char *path, struct front *front,
               struct mount **ret_mount, struct fail *why)
{
    struct mount *mount cleanup(cleanup_mount_impl) = calloc(1, sizeof(*mount));
    if (!mount)
        return fail_errno(why, ENOMEM, "%s", path);
    int r = make_session(config, front, mount, why);
    if (r == 0)
        r = mount_captured(mount, path, why);
    if (r < 0)
        return r;
    if (fuse_set_signal_handlers(mount->session) != 0)
        return fail_set(why, EIO, "signal handlers could not be set");
    mount->handles_signals = true;
    *ret_mount = take(mount);
    return 0;
}

void mount_serve(struct mount *mount)
{
    loop_run(mount->session);
}

void mount_close(struct mount *mount)
{
    if (!mount)
        return;
    if (mount->handles_signals)
        fuse_remove_signal_handlers(mount->session);
    if (mount->mounted)
        fuse_session_unmount(mount->session);
    if (mount->session)
        fuse_session_destroy(mount->session);
    free(mount);
}
