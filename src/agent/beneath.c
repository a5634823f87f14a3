/* SPDX-License-Identifier: MIT */
#include "agent/beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>

/* Below PATH_MAX (4096), which counts the NUL; a component has at most 255. */
#define PIECE_MAX_BYTES 4000

/* openat2(2) takes no flag beside O_PATH that would mean nothing. */
static int with_always(int flags)
{
    return flags | O_CLOEXEC | O_NOFOLLOW | (flags & O_PATH ? 0 : O_NOCTTY);
}

static int open_piece_2(int dir, const char *piece, int flags)
{
    struct open_how how = {.flags = (uint64_t)with_always(flags),
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    long fd;
    /* EAGAIN: a rename elsewhere made the kernel unsure; ask again (openat2(2)).  With
     * O_NONBLOCK it may be a lease as well, for up to 45 seconds. */
    do
        fd = syscall(SYS_openat2, dir, piece, &how, sizeof(how));
    while (fd < 0 && ((errno == EAGAIN && !(flags & O_NONBLOCK)) || errno == EINTR));
    return fd < 0 ? -errno : (int)fd;
}

static bool is_name(const char *name, size_t len)
{
    return len > 2 || (len > 0 && memcmp(name, "..", len) != 0);
}

bool beneath_is_path(const char *path)
{
    if (!path[0])
        return true;
    for (;;) {
        size_t len = strcspn(path, "/");
        if (!is_name(path, len))
            return false;
        if (!path[len])
            return true;
        path += len + 1;
    }
}

static int open_component(int dir, const char *name, size_t len, int flags)
{
    char copy[256];
    if (len >= sizeof(copy))
        return -ENAMETOOLONG;
    memcpy(copy, name, len);
    copy[len] = '\0';
    int fd = openat(dir, copy, with_always(flags));
    return fd < 0 ? -errno : fd;
}

static int open_piece_by_components(int dir, const char *piece, int flags)
{
    cleanup_close int here = -1;
    for (;;) {
        size_t len = strcspn(piece, "/");
        bool last = !piece[len];
        int fd =
            open_component(here >= 0 ? here : dir, piece, len, last ? flags : O_PATH | O_DIRECTORY);
        if (fd < 0 || last)
            return fd;
        cleanup_close_impl(&here);
        here = fd;
        piece += len + 1;
    }
}

static int open_piece(int dir, const char *piece, int flags)
{
    static atomic_bool missing;
    if (!atomic_load(&missing)) {
        int fd = open_piece_2(dir, piece, flags);
        /* EPERM is what Docker's older seccomp profiles answer to unknown calls. */
        if (fd != -ENOSYS && fd != -EPERM)
            return fd;
        fd = open_piece_by_components(dir, piece, flags);
        if (fd >= 0)
            atomic_store(&missing, true);
        return fd;
    }
    return open_piece_by_components(dir, piece, flags);
}

/* How much of a long path makes a piece: up to a '/', which is not in it. */
static size_t piece_bytes(const char *path)
{
    if (strnlen(path, PIECE_MAX_BYTES + 1) <= PIECE_MAX_BYTES)
        return strlen(path);
    const char *slash = memrchr(path, '/', PIECE_MAX_BYTES);
    return slash ? (size_t)(slash - path) : 0;
}

int beneath_open(int root, const char *path, int flags)
{
    if (!beneath_is_path(path))
        return -EXDEV;
    if (!path[0]) {
        int fd = openat(root, ".", with_always(flags)); /* "." is no way out */
        return fd < 0 ? -errno : fd;
    }
    cleanup_close int here = -1;
    for (;;) {
        size_t len = piece_bytes(path);
        if (!path[len])
            return open_piece(here >= 0 ? here : root, path, flags);
        char piece[PIECE_MAX_BYTES + 1];
        if (len == 0)
            return -ENAMETOOLONG;
        memcpy(piece, path, len);
        piece[len] = '\0';
        int fd = open_piece(here >= 0 ? here : root, piece, O_PATH | O_DIRECTORY);
        if (fd < 0)
            return fd;
        cleanup_close_impl(&here);
        here = fd;
        path += len + 1;
    }
}
