/* SPDX-License-Identifier: MIT */
#include "volume/agent_start.h"

#include "engine/attach.h"
#include "engine/containers.h"
#include "volume/owner.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define DIR_PREFIX "dvolfs-"
#define OWNER_FILE "owner"
/* From the container's start to the agent's first word. */
#define START_MS 20000

struct starter {
    struct helpers *helpers;
    bool wants_socket;
    atomic_bool with_socket; /* until it is found out that the engine does not see ours */
    pthread_mutex_t lock;    /* of what follows */
    char *dir;               /* NULL: not made yet */
    unsigned long long sockets;
};

/* ---- the directory of sockets --------------------------------------------------------- */

static const char *runtime_dir(void)
{
    const char *dir = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0)
        return "/run";
    return dir && dir[0] == '/' ? dir : "/tmp";
}

static int write_owner(int dir)
{
    char owner[OWNER_BYTES];
    int r = owner_self(owner);
    if (r < 0)
        return r;
    cleanup_close int fd = openat(dir, OWNER_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    return write(fd, owner, strlen(owner)) == (ssize_t)strlen(owner) ? 0 : -EIO;
}

static bool is_ours(int fd, mode_t type, struct stat *ret)
{
    return fstat(fd, ret) == 0 && ret->st_uid == geteuid() && (ret->st_mode & S_IFMT) == type;
}

/* Whether a process of ours made the directory, and is gone.  In /tmp anybody may
 * have made anything. */
static bool is_left_behind(int dir)
{
    char owner[OWNER_BYTES];
    struct stat st;
    if (!is_ours(dir, S_IFDIR, &st))
        return false;
    cleanup_close int fd = openat(dir, OWNER_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || !is_ours(fd, S_IFREG, &st))
        return false;
    ssize_t n = read(fd, owner, sizeof(owner) - 1);
    if (n <= 0)
        return false;
    owner[n] = '\0';
    return owner_check(owner, st.st_mtim.tv_sec) == OWNER_DEAD;
}

/* Removes a directory of ours with the sockets in it. */
static void remove_dir(int parent, const char *name)
{
    cleanup_close int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        return;
    int own = take_fd(&fd);
    struct dirent *entry;
    while ((entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            (void)unlinkat(own, entry->d_name, 0);
    (void)closedir(dir);
    (void)unlinkat(parent, name, AT_REMOVEDIR);
}

static void sweep_dirs(void)
{
    DIR *dir = opendir(runtime_dir());
    if (!dir)
        return;
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (strncmp(entry->d_name, DIR_PREFIX, sizeof(DIR_PREFIX) - 1) != 0)
            continue;
        cleanup_close int fd =
            openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && is_left_behind(fd))
            remove_dir(dirfd(dir), entry->d_name);
    }
    (void)closedir(dir);
}

/* With the lock. */
static int make_dir(struct starter *starter)
{
    /* What ends a user's session, or tidies up, may have taken it away. */
    if (starter->dir && access(starter->dir, F_OK) == 0)
        return 0;
    cleanup_free char *path = NULL;
    if (asprintf(&path, "%s/" DIR_PREFIX "XXXXXX", runtime_dir()) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    if (!mkdtemp(path)) /* 0700: mkdtemp(3) */
        return -errno;
    cleanup_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd >= 0 ? write_owner(fd) : -errno;
    free(starter->dir);
    starter->dir = take(path);
    return r;
}

struct listener {
    int fd;
    struct sockaddr_un address;
};

static void listener_done(struct listener *listener)
{
    if (listener->fd < 0)
        return;
    (void)close(listener->fd);
    (void)unlink(listener->address.sun_path);
}

/* A socket that is open to everybody in a directory that is not: the agent is root
 * without the right to override modes. */
static int listen_at_new_socket(struct starter *starter, struct listener *ret)
{
    struct listener listener cleanup(listener_done) = {.fd = -1};
    listener.address.sun_family = AF_UNIX;
    {
        scoped_lock(&starter->lock);
        int r = make_dir(starter);
        if (r < 0)
            return r;
        int n = snprintf(listener.address.sun_path, sizeof(listener.address.sun_path), "%s/%llu",
                         starter->dir, starter->sockets++);
        if (n >= (int)sizeof(listener.address.sun_path))
            return -ENAMETOOLONG;
    }
    listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener.fd < 0 ||
        bind(listener.fd, (struct sockaddr *)&listener.address, sizeof(listener.address)) < 0 ||
        chmod(listener.address.sun_path, 0666) < 0 || listen(listener.fd, 1) < 0)
        return -errno;
    *ret = listener;
    listener.fd = -1;
    return 0;
}

/* ---- one agent --------------------------------------------------------------------------- */

static int make_nonce(char nonce[AGENT_NONCE_BYTES + 1], struct fail *why)
{
    uint64_t random[2];
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return fail_errno(why, errno, "getrandom");
    (void)snprintf(nonce, AGENT_NONCE_BYTES + 1, "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits until the agent connects, or says something, or ends: 1 for the socket, 0
 * for its stdout. */
static int await_first(int listening, int attached, struct cancel *cancel, struct fail *why)
{
    struct pollfd fds[] = {{.fd = attached, .events = POLLIN},
                           {.fd = listening, .events = POLLIN},
                           {.fd = cancel_fd(cancel), .events = POLLIN}};
    int64_t until_ms = now_ms() + START_MS;
    int n;
    do {
        int64_t left = until_ms - now_ms();
        n = poll(fds, 3, left > 0 ? (int)left : 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return fail_errno(why, errno, "poll");
    if (n == 0)
        return fail_set(why, ETIMEDOUT, "the agent does not start");
    if (fds[2].revents)
        return fail_set(why, EINTR, "interrupted");
    return fds[1].revents ? 1 : 0;
}

static int connect_agent(int attached, const struct listener *listener, const char *nonce,
                         struct cancel *cancel, struct agent_link **ret_link, struct fail *why)
{
    cleanup_close int stdio = attached;
    int r = await_first(listener->fd, stdio, cancel, why);
    if (r < 0)
        return r;
    if (r == 0)
        return agent_link_open(take_fd(&stdio), false, nonce, cancel, ret_link, why);
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return fail_errno(why, errno, "the agent's socket");
    return agent_link_open(fd, true, nonce, cancel, ret_link, why);
}

/* -ENOENT is said of volumes alone. */
static int run_in(struct helper *helper, const struct listener *listener, const char *nonce,
                  struct cancel *cancel, struct agent_link **ret_link, struct fail *why)
{
    struct engine *engine = helper_engine(helper);
    const char *id = helper_container(helper);
    cleanup_close int attached = engine_container_attach(engine, id, cancel, why);
    int r = attached < 0 ? attached : engine_container_start(engine, id, cancel, why);
    if (r == 0)
        r = connect_agent(take_fd(&attached), listener, nonce, cancel, ret_link, why);
    return r == -ENOENT ? -EIO : r;
}

static int run_with(struct starter *starter, const char *volume, const struct listener *listener,
                    struct cancel *cancel, struct helper **ret_helper, struct agent_link **ret_link,
                    struct fail *why)
{
    char nonce[AGENT_NONCE_BYTES + 1];
    int r = make_nonce(nonce, why);
    if (r < 0)
        return r;
    struct helper *helper cleanup_helper_drop = NULL;
    struct helper_conf conf = {.volume = volume,
                               .nonce = nonce,
                               .socket = listener->fd >= 0 ? listener->address.sun_path : NULL};
    r = helper_open(starter->helpers, &conf, cancel, &helper, why);
    if (r < 0)
        return r;
    r = run_in(helper, listener, nonce, cancel, ret_link, why);
    if (r < 0)
        return fail_prefix(why, r, "starting an agent for volume %s", volume);
    *ret_helper = take(helper);
    return 0;
}

/* Whether that was the engine's refusal of a socket which it does not see, or
 * may not hand on. */
static bool may_be_the_socket(int r)
{
    return r == -EINVAL || r == -EIO || r == -EPERM;
}

int starter_run(struct starter *starter, const char *volume, struct cancel *cancel,
                struct helper **ret_helper, struct agent_link **ret_link, struct fail *why)
{
    struct listener listener cleanup(listener_done) = {.fd = -1};
    int r;
    /* Where there can be no socket it is done without. */
    if (starter->with_socket && listen_at_new_socket(starter, &listener) == 0) {
        r = run_with(starter, volume, &listener, cancel, ret_helper, ret_link, why);
        if (r == 0 && !agent_link_is_socket(*ret_link))
            starter->with_socket = false;
        if (!may_be_the_socket(r))
            return r;
    }
    struct listener none = {.fd = -1};
    r = run_with(starter, volume, &none, cancel, ret_helper, ret_link, why);
    if (r == 0 && listener.fd >= 0)
        starter->with_socket = false;
    return r;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct starter *starter_new(struct helpers *helpers, bool with_socket)
{
    struct starter *starter = calloc(1, sizeof(*starter));
    if (!starter)
        return NULL;
    starter->helpers = helpers;
    starter->wants_socket = with_socket;
    atomic_init(&starter->with_socket, with_socket);
    (void)pthread_mutex_init(&starter->lock, NULL);
    sweep_dirs();
    return starter;
}

void starter_reconsider(struct starter *starter)
{
    starter->with_socket = starter->wants_socket;
}

void starter_free(struct starter *starter)
{
    if (!starter)
        return;
    if (starter->dir)
        remove_dir(AT_FDCWD, starter->dir);
    (void)pthread_mutex_destroy(&starter->lock);
    free(starter->dir);
    free(starter);
}
