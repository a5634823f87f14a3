/* SPDX-License-Identifier: MIT */
#include "tar/default_acls.h"

#include "tar/acl.h"

#include <endian.h>
#include <linux/posix_acl_xattr.h>
#include <string.h>
#include <sys/stat.h>

#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, bytes, hash) HASH_FNV(key, bytes, hash) /* the default is not clean */
#include <uthash.h>

struct directory {
    UT_hash_handle hh; /* by the entry's name */
    struct tar_entry entry;
};

struct default_acls {
    struct directory *table;
};

struct default_acls *default_acls_new(void)
{
    return calloc(1, sizeof(struct default_acls));
}

static void directory_free(struct directory *directory)
{
    if (!directory)
        return;
    tar_entry_done(&directory->entry);
    free(directory);
}
DEFINE_CLEANUP(cleanup_directory_impl, struct directory, directory_free)
#define cleanup_directory cleanup(cleanup_directory_impl)

void default_acls_free(struct default_acls *acls)
{
    if (!acls)
        return;
    struct directory *directory = acls->table;
    HASH_CLEAR(hh, acls->table);
    while (directory) {
        struct directory *next = directory->hh.next;
        directory_free(directory);
        directory = next;
    }
    free(acls);
}

static void forget(struct default_acls *acls, const char *name)
{
    struct directory *directory = NULL;
    HASH_FIND_STR(acls->table, name, directory);
    if (directory)
        HASH_DEL(acls->table, directory);
    directory_free(directory);
}

/* What it takes to tell of the directory once more. */
static struct directory *new_directory(const struct tar_entry *entry, const struct tar_xattr *acl)
{
    struct directory *directory cleanup_directory = calloc(1, sizeof(*directory));
    if (!directory)
        return NULL;
    directory->entry = (struct tar_entry){.name = strdup(entry->name),
                                          .mode = entry->mode,
                                          .uid = entry->uid,
                                          .gid = entry->gid,
                                          .mtime_s = entry->mtime_s,
                                          .mtime_ns = entry->mtime_ns};
    if (!directory->entry.name ||
        tar_entry_add_xattr(&directory->entry, acl->name, acl->value, acl->value_bytes) < 0)
        return NULL;
    return take(directory);
}

static int note(struct default_acls *acls, const struct tar_entry *entry,
                const struct tar_xattr *acl)
{
    struct directory *directory cleanup_directory = new_directory(entry, acl);
    if (!directory)
        return -ENOMEM;
    forget(acls, entry->name);
    HASH_ADD_KEYPTR(hh, acls->table, directory->entry.name, strlen(directory->entry.name),
                    directory);
    if (!directory->hh.tbl)
        return -ENOMEM;
    (void)take(directory);
    return 0;
}

int default_acls_put_off(struct default_acls *acls, struct tar_entry *entry)
{
    const struct posix_acl_xattr_header none = {.a_version = htole32(POSIX_ACL_XATTR_VERSION)};
    if (!S_ISDIR(entry->mode)) {
        forget(acls, entry->name);
        return 0;
    }
    const struct tar_xattr *acl = tar_entry_find_xattr(entry, TAR_ACL_DEFAULT);
    if (!acl)
        return 0;
    int r = note(acls, entry, acl);
    return r < 0 ? r : tar_entry_add_xattr(entry, TAR_ACL_DEFAULT, &none, sizeof(none));
}

int default_acls_next(struct default_acls *acls, struct tar_entry *ret_entry)
{
    struct directory *directory = acls->table;
    if (!directory)
        return 0;
    HASH_DEL(acls->table, directory);
    *ret_entry = directory->entry;
    free(directory);
    return 1;
}
