/* SPDX-License-Identifier: MIT */
/* tar/check.h: an archive that may be unpacked is read again, and none of its names
 * leads out, by itself or through a symlink of the archive. */
#include "fuzz-tar.h"
#include "fuzz.h"

#include "base/buf.h"
#include "tar/check.h"
#include "tar/reader.h"

#include <sys/stat.h>

#define DATA_MAX_BYTES ((uint64_t)1 << 20)

/* The names of symlinks so far, each and a '/', which is how those below them begin. */
struct links {
    struct buf names; /* with NULs between */
};

static bool has_dots(const char *name)
{
    for (const char *at = name; *at; at += strcspn(at, "/"), at += *at == '/')
        if (strcspn(at, "/") == 2 && strncmp(at, "..", 2) == 0)
            return true;
    return false;
}

static void check_name(const struct links *links, const char *name)
{
    require(name[0] != '/' && !has_dots(name) && strlen(name) <= TAR_CHECK_PATH_MAX);
    for (size_t at = 0; at < links->names.len; at += strlen(links->names.data + at) + 1)
        require(strncmp(name, links->names.data + at, strlen(links->names.data + at)) != 0);
}

/* A name that becomes something else than a link is none any more. */
static void note_link(struct links *links, const struct tar_entry *entry)
{
    size_t len = strlen(entry->name);
    for (size_t at = 0, next; at < links->names.len; at = next) {
        char *link = links->names.data + at;
        next = at + strlen(link) + 1;
        if (strlen(link) == len + 1 && strncmp(link, entry->name, len) == 0)
            link[0] = '/'; /* which no name begins with */
    }
    if (S_ISLNK(entry->mode))
        require(buf_add_string(&links->names, entry->name) == 0 &&
                buf_add(&links->names, "/", 2) == 0);
}

static void check_all(int fd, const struct tar_check *check)
{
    struct fail why = FAIL_INIT;
    struct tar_reader *reader cleanup_tar_reader = NULL;
    struct links links;
    buf_init(&links.names, (size_t)64 << 20);
    require(tar_reader_open(fd, &reader, &why) == 0);
    uint64_t members = 0, bytes = 0;
    int r;
    for (;; members++) {
        struct tar_entry entry cleanup_tar_entry = {0};
        r = tar_reader_next(reader, &entry, &why);
        if (r <= 0)
            break;
        check_name(&links, entry.name);
        if (entry.is_hard_link)
            check_name(&links, entry.link_target);
        note_link(&links, &entry);
        bytes += entry.size_bytes;
        r = tar_check_against(check, entry.name, entry.mode, &why);
        require(r == 0 || r == -EISDIR || r == -EPERM || r == -ENOTDIR);
    }
    require(r == 0 && members == tar_check_members(check));
    require(bytes == tar_check_data_bytes(check) && bytes <= DATA_MAX_BYTES);
    buf_done(&links.names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fail why = FAIL_INIT;
    struct tar_check *check cleanup_tar_check = NULL;
    cleanup_close int fd = file_of(data, size);
    int r = tar_check_run(fd, DATA_MAX_BYTES, NULL, &check, &why);
    require(r == 0 || r == -ENOMEM || why.text[0]);
    require(r == 0 || r == -EILSEQ || r == -EPERM || r == -EINVAL || r == -ENOSPC || r == -ENOMEM);
    if (r == 0)
        check_all(fd, check);
    return 0;
}
