/* SPDX-License-Identifier: MIT */
#include "tar/default_acls.h"

#include "tar/acl.h"

#include <endian.h>
#include <linux/posix_acl_xattr.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* uthash's default is not clean. */
#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, bytes, hash) HASH_FNV(key, bytes, hash)
#include <uthash.h>

/* Most directories have one of a few. */
struct value {
    UT_hash_handle hh;
    size_t bytes;
    char data[];
};

struct directory {
    UT_hash_handle hh;
    const struct value *acl;
    mode_t mode;
    uint32_t mtime_ns;
    int64_t mtime_s;
    uint64_t uid, gid;
    char name[];
};

struct default_acls {
    struct directory *directories;
    struct value *values;
    size_t bytes;
};

struct default_acls *default_acls_new(void)
{
    return calloc(1, sizeof(struct default_acls));
}

void default_acls_free(struct default_acls *acls)
{
    if (!acls)
        return;
    struct directory *directory = acls->directories;
    struct value *value = acls->values;
    HASH_CLEAR(hh, acls->directories);
    HASH_CLEAR(hh, acls->values);
    while (directory) {
        struct directory *next = directory->hh.next;
        free(directory);
        directory = next;
    }
    while (value) {
        struct value *next = value->hh.next;
        free(value);
        value = next;
    }
    free(acls);
}

static bool has_room(struct default_acls *acls, size_t bytes)
{
    if (bytes > DEFAULT_ACLS_MAX_BYTES - acls->bytes)
        return false;
    acls->bytes += bytes;
    return true;
}

static int find_value(struct default_acls *acls, const struct tar_xattr *xattr,
                      const struct value **ret_value)
{
    struct value *value = NULL;
    HASH_FIND(hh, acls->values, xattr->value, xattr->value_bytes, value);
    if (!value) {
        if (!has_room(acls, sizeof(*value) + xattr->value_bytes))
            return -E2BIG;
        value = calloc(1, sizeof(*value) + xattr->value_bytes);
        if (!value)
            return -ENOMEM;
        value->bytes = xattr->value_bytes;
        memcpy(value->data, xattr->value, xattr->value_bytes);
        HASH_ADD(hh, acls->values, data, value->bytes, value);
        if (!value->hh.tbl) {
            free(value);
            return -ENOMEM;
        }
    }
    *ret_value = value;
    return 0;
}

static struct directory *find_directory(struct default_acls *acls, const char *name)
{
    struct directory *directory = NULL;
    HASH_FIND(hh, acls->directories, name, strlen(name), directory);
    return directory;
}

static int add_directory(struct default_acls *acls, const char *name, struct directory **ret)
{
    size_t name_bytes = strlen(name);
    if (!has_room(acls, sizeof(struct directory) + name_bytes + 1))
        return -E2BIG;
    struct directory *directory = calloc(1, sizeof(*directory) + name_bytes + 1);
    if (!directory)
        return -ENOMEM;
    memcpy(directory->name, name, name_bytes);
    HASH_ADD(hh, acls->directories, name, name_bytes, directory);
    if (!directory->hh.tbl) {
        free(directory);
        return -ENOMEM;
    }
    *ret = directory;
    return 0;
}

static void forget(struct default_acls *acls, struct directory *directory)
{
    HASH_DEL(acls->directories, directory);
    acls->bytes -= sizeof(*directory) + strlen(directory->name) + 1;
    free(directory);
}

/* What is told of it now counts. */
static void refresh(struct directory *directory, const struct tar_entry *entry)
{
    directory->mode = entry->mode;
    directory->uid = entry->uid;
    directory->gid = entry->gid;
    directory->mtime_s = entry->mtime_s;
    directory->mtime_ns = entry->mtime_ns;
}

int default_acls_put_off(struct default_acls *acls, struct tar_entry *entry)
{
    const struct posix_acl_xattr_header none = {.a_version = htole32(POSIX_ACL_XATTR_VERSION)};
    struct directory *directory = find_directory(acls, entry->name);
    if (directory && !S_ISDIR(entry->mode)) {
        forget(acls, directory);
        return 0;
    }
    const struct tar_xattr *acl =
        S_ISDIR(entry->mode) ? tar_entry_find_xattr(entry, TAR_ACL_DEFAULT) : NULL;
    int r = acl && !directory ? add_directory(acls, entry->name, &directory) : 0;
    if (r == 0 && acl)
        r = find_value(acls, acl, &directory->acl);
    if (r == 0 && directory)
        refresh(directory, entry);
    return r == 0 && acl ? tar_entry_add_xattr(entry, TAR_ACL_DEFAULT, &none, sizeof(none)) : r;
}

int default_acls_next(struct default_acls *acls, struct tar_entry *ret_entry)
{
    struct directory *directory = acls->directories;
    if (!directory)
        return 0;
    struct tar_entry entry cleanup_tar_entry = {.name = strdup(directory->name),
                                                .mode = directory->mode,
                                                .uid = directory->uid,
                                                .gid = directory->gid,
                                                .mtime_s = directory->mtime_s,
                                                .mtime_ns = directory->mtime_ns};
    if (!entry.name || tar_entry_add_xattr(&entry, TAR_ACL_DEFAULT, directory->acl->data,
                                           directory->acl->bytes) < 0)
        return -ENOMEM;
    forget(acls, directory);
    *ret_entry = entry;
    entry = (struct tar_entry){0};
    return 1;
}
