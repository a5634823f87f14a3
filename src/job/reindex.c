/* SPDX-License-Identifier: MIT */
#include "job/reindex.h"

#include "base/fd.h"
#include "job/members.h"
#include "store/seekable.h"

#include <openssl/evp.h>
#include <string.h>

#define PIECE_BYTES ((size_t)256 * 1024)

static int hash_file(EVP_MD_CTX *context, int fd, uint64_t bytes, struct cancel *cancel,
                     struct fail *why)
{
    cleanup_free char *piece = malloc(PIECE_BYTES);
    if (!piece)
        return fail_errno(why, ENOMEM, "reading the snapshot");
    for (uint64_t at = 0; at < bytes;) {
        size_t want = bytes - at < PIECE_BYTES ? (size_t)(bytes - at) : PIECE_BYTES;
        ssize_t n = fd_pread_full(fd, piece, want, at);
        if (cancel_is_raised(cancel))
            return fail_set(why, EINTR, "interrupted");
        if (n < 0)
            return fail_errno(why, (int)-n, "reading the snapshot");
        if ((size_t)n < want)
            return fail_set(why, EBADMSG, "the snapshot is cut short");
        if (EVP_DigestUpdate(context, piece, want) != 1)
            return fail_set(why, EIO, "SHA-256 failed");
        at += want;
    }
    return 0;
}

static int sha256_of(int fd, uint64_t bytes, struct cancel *cancel, uint8_t ret_sha256[32],
                     struct fail *why)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        return fail_errno(why, ENOMEM, "SHA-256");
    }
    int r = hash_file(context, fd, bytes, cancel, why);
    if (r == 0 && EVP_DigestFinal_ex(context, ret_sha256, NULL) != 1)
        r = fail_set(why, EIO, "SHA-256 failed");
    EVP_MD_CTX_free(context);
    return r;
}

/* What the index says of the archive.  It was put there by hand if it has no table. */
static int look_at(int fd, struct cancel *cancel, struct index_about *ret_about,
                   uint64_t *ret_bytes, struct fail *why)
{
    struct seekable *seekable cleanup_seekable = NULL;
    int r = seekable_open(fd, &seekable, why);
    if (r == -ENODATA)
        return fail_set(why, EBADMSG, "it was not made by dvolfs; copy it into snapshots/ instead");
    struct stat st;
    if (r == 0 && fstat(fd, &st) < 0)
        r = fail_errno(why, errno, "reading the snapshot");
    if (r < 0)
        return r;
    *ret_bytes = seekable_total_bytes(seekable);
    *ret_about = (struct index_about){.archive_bytes = (uint64_t)st.st_size,
                                      .seal = seekable_seal(seekable),
                                      .taken_s = st.st_mtim.tv_sec,
                                      .consistency = "unknown"};
    return sha256_of(fd, ret_about->archive_bytes, cancel, ret_about->sha256, why);
}

static int write_index(struct members *members, const struct index_about *about,
                       const struct store_new *index, struct fail *why)
{
    struct index_writer *writer cleanup_index_writer = NULL;
    int r = index_writer_new(index->path, &writer, why);
    if (r == 0)
        r = members_write(members, writer, why);
    return r < 0 ? r : index_finish(writer, about, why);
}

int reindex_run(struct store *store, const char *volume, const char *name, int fd, struct job *job,
                struct cancel *cancel, struct fail *why)
{
    struct index_about about = {0};
    uint64_t bytes = 0;
    int r = look_at(fd, cancel, &about, &bytes, why);
    if (r < 0)
        return r;
    job_set_total(job, bytes);
    struct members *members cleanup_members = NULL;
    struct store_new index cleanup_store_new = STORE_NEW_INIT;
    r = members_read(fd, bytes, NULL, job, cancel, &members, why);
    if (r == 0)
        r = store_new_file(store, &index, why);
    if (r == 0)
        r = write_index(members, &about, &index, why);
    return r < 0 ? r : store_publish_index(store, volume, name, &index, why);
}
