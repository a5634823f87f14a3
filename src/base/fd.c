/* SPDX-License-Identifier: MIT */
#include "base/fd.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int fd_pwrite_all(int fd, const void *data, size_t len, uint64_t offset)
{
    const char *at = data;
    while (len) {
        ssize_t n = pwrite(fd, at, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

ssize_t fd_pread_full(int fd, void *data, size_t len, uint64_t offset)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, (char *)data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static int named_then_removed(const char *dir, struct fail *why)
{
    cleanup_free char *name = NULL;
    if (asprintf(&name, "%s/.dvolfs-XXXXXX", dir) < 0) {
        name = NULL;
        return fail_errno(why, ENOMEM, "%s", dir);
    }
    int fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0)
        return fail_errno(why, errno, "cannot make a file in %s", dir);
    (void)unlink(name);
    return fd;
}

#define BEGIN_BYTES ((uint64_t)8 << 20)

void fd_begin_writing(int fd, uint64_t *begun, uint64_t end)
{
    if (end - *begun < BEGIN_BYTES)
        return;
    (void)sync_file_range(fd, (off_t)*begun, (off_t)(end - *begun), SYNC_FILE_RANGE_WRITE);
    *begun = end;
}

int fd_unnamed_file(const char *dir, struct fail *why)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    /* EISDIR: a kernel without O_TMPFILE; EOPNOTSUPP: a file system without (open(2)). */
    if (errno == EOPNOTSUPP || errno == EISDIR)
        return named_then_removed(dir, why);
    return fail_errno(why, errno, "cannot make a file in %s", dir);
}

static int make_dir(const char *dir, struct fail *why)
{
    if (mkdir(dir, 0700) == 0 || errno == EEXIST)
        return 0;
    return fail_errno(why, errno, "cannot make the directory %s", dir);
}

int fd_make_dirs(const char *dir, struct fail *why)
{
    cleanup_free char *path = strdup(dir);
    if (!path)
        return fail_errno(why, ENOMEM, "%s", dir);
    for (char *at = path + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        int r = make_dir(path, why);
        *at = '/';
        if (r < 0)
            return r;
    }
    int r = make_dir(path, why);
    struct stat st;
    if (r == 0 && stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        return fail_set(why, ENOTDIR, "%s is not a directory", dir);
    return r;
}
