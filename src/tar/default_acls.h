/* SPDX-License-Identifier: MIT */
/*
 * The directories of an archive whose default ACL is to be set when everything else is
 * unpacked: what is made in a directory that has one inherits it.
 *
 * Whoever unpacks (the engine, busybox) sets a member's attributes when it meets the
 * member.  So such a directory is told of twice: first with an attribute that removes any
 * default ACL (linux fs/posix_acl.c: one without entries is none), and at the end with its
 * own.
 *
 * Some 150 bytes and the name for each such directory, and each ACL once.  One thread.
 */
#ifndef DVOLFS_TAR_DEFAULT_ACLS_H
#define DVOLFS_TAR_DEFAULT_ACLS_H

#include "tar/entry.h"

/* Those of a million directories take two thirds of it. */
#define DEFAULT_ACLS_MAX_BYTES ((size_t)256 << 20)

struct default_acls;

/* NULL: no memory. */
struct default_acls *default_acls_new(void);
void default_acls_free(struct default_acls *acls);
DEFINE_CLEANUP(cleanup_default_acls_impl, struct default_acls, default_acls_free)
#define cleanup_default_acls cleanup(cleanup_default_acls_impl)

/*
 * To be called for each member, in order, before it is written.  A directory's default ACL is
 * noted, and replaced in the entry; told of again without one it keeps that, but all else is
 * the later entry's.  A member in the place of a directory makes that one forgotten.
 * -ENOMEM; -E2BIG: they take more than DEFAULT_ACLS_MAX_BYTES.
 */
must_check int default_acls_put_off(struct default_acls *acls, struct tar_entry *entry);

/* Hands over the next directory that was noted, with no attribute but its default ACL: 1,
 * or 0 when there is none left.  -ENOMEM. */
must_check int default_acls_next(struct default_acls *acls, struct tar_entry *ret_entry);

#endif
