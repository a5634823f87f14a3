/* SPDX-License-Identifier: MIT */
/*
 * Three tables, made in one transaction and without a journal: what is not finished is
 * thrown away.  A second name of a file is no more than that, all else is the first's.
 *
 * A reader takes the schema for nothing but what is written here, so that SQLite does
 * what is expected of each statement.  An entry is packed as agent/file.h has it and
 * taken apart again, because that is where what comes from elsewhere is checked.
 */
#include "store/index.h"

#include "store/pagefile.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>

#define WRITER_CACHE "-8192" /* KiB */
#define READER_CACHE "-2048"
#define EXTENT_BYTES 16 /* as agent/file.h packs it */
/* The largest value is a file's extents. */
#define VALUE_MAX_BYTES (FILE_MAX_EXTENTS * EXTENT_BYTES)
#define RECORD_MAX_BYTES (VALUE_MAX_BYTES + FILE_MAX_XATTR_BYTES + 65536)
#define LINK_MAX_BYTES (PATH_MAX - 1)

static const char *const schema[] = {
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE entry(id INTEGER PRIMARY KEY, parent INTEGER, target INTEGER, name BLOB,"
    " mode INTEGER, nlink INTEGER, uid INTEGER, gid INTEGER, size INTEGER,"
    " mtime_s INTEGER, mtime_ns INTEGER, rdev_major INTEGER, rdev_minor INTEGER,"
    " offset INTEGER, link_target BLOB, xattrs BLOB, extents BLOB)",
    "CREATE UNIQUE INDEX entry_name ON entry(parent, name)",
    "CREATE TABLE frame(number INTEGER PRIMARY KEY, key BLOB)",
};
#define SCHEMA_COUNT (sizeof(schema) / sizeof(schema[0]))

#define SET_META "INSERT INTO meta VALUES(?1,?2)"

/* The columns of an entry in the order of all statements. */
enum {
    COLUMN_ID,
    COLUMN_PARENT,
    COLUMN_TARGET,
    COLUMN_NAME,
    COLUMN_MODE,
    COLUMN_NLINK,
    COLUMN_UID,
    COLUMN_GID,
    COLUMN_SIZE,
    COLUMN_MTIME_S,
    COLUMN_MTIME_NS,
    COLUMN_RDEV_MAJOR,
    COLUMN_RDEV_MINOR,
    COLUMN_OFFSET,
    COLUMN_LINK_TARGET,
    COLUMN_XATTRS,
    COLUMN_EXTENTS,
};

/* SQLite's errors as ours. */
static int errno_of(int result)
{
    static const struct {
        int result;
        int error;
    } table[] = {
        {SQLITE_NOMEM, ENOMEM},      {SQLITE_FULL, ENOSPC},     {SQLITE_IOERR, EIO},
        {SQLITE_CONSTRAINT, EINVAL}, {SQLITE_TOOBIG, E2BIG},    {SQLITE_PERM, EACCES},
        {SQLITE_READONLY, EROFS},    {SQLITE_CORRUPT, EBADMSG}, {SQLITE_NOTADB, EBADMSG},
    };
    if (result == SQLITE_IOERR_CORRUPTFS)
        return EBADMSG;
    if (result == SQLITE_IOERR_NOMEM)
        return ENOMEM;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if ((result & 0xff) == table[i].result)
            return table[i].error;
    return EBADMSG;
}

static bool is_name(const char *name)
{
    size_t bytes = strlen(name);
    return bytes > 0 && bytes <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static bool has_known_type(uint32_t mode)
{
    uint32_t type = mode & S_IFMT;
    return (mode & ~(uint32_t)(S_IFMT | 07777)) == 0 &&
           (type == S_IFREG || type == S_IFDIR || type == S_IFLNK || type == S_IFCHR ||
            type == S_IFBLK || type == S_IFIFO);
}

/* Whether an entry has its place in a tree, whatever is there. */
static bool is_placed(const struct index_entry *entry)
{
    if (entry->id == 0)
        return entry->parent == 0 && entry->target == 0 && entry->file.name[0] == '\0';
    return entry->id <= INT64_MAX && entry->parent < entry->id && entry->target <= entry->id &&
           is_name(entry->file.name);
}

/* Whether the file makes sense, as far as file_read does not see to it. */
static bool is_sound(const struct index_entry *entry)
{
    const struct file *file = &entry->file;
    uint32_t type = file->stat.mode & S_IFMT;
    size_t link_bytes = strlen(file->link_target);
    return has_known_type(file->stat.mode) && (entry->id > 0 || type == S_IFDIR) &&
           link_bytes <= LINK_MAX_BYTES && (type == S_IFLNK) == (link_bytes > 0) &&
           (type == S_IFREG || (!file->is_sparse && file->extent_count == 0)) &&
           file->stat.size_bytes <= INT64_MAX && file->stat.mtime.ns <= 999999999 &&
           entry->offset <= INT64_MAX;
}

/* Packs the file in `record` and takes it out of there: what is not sound does not pass. */
static int pack(struct buf *record, struct file *file, const struct file_extent *extents)
{
    size_t position = 0;
    buf_clear(record);
    int r = file_write(record, file, extents);
    if (r == 0)
        r = file_read(record->data, record->len, &position, file);
    if (r == 0 || r == -EMSGSIZE)
        return -EBADMSG;
    return r < 0 ? r : 0;
}

/* ---- writing ------------------------------------------------------------------ */

struct index_writer {
    sqlite3 *db;
    sqlite3_stmt *add;
    sqlite3_stmt *add_frame;
    sqlite3_stmt *set;
    char *path;
    struct buf record; /* of the entry that is being written */
    uint64_t entries;
    uint64_t last_id;
};

static int write_failed(struct index_writer *writer, struct fail *why)
{
    int error = errno_of(sqlite3_extended_errcode(writer->db));
    int system = sqlite3_system_errno(writer->db);
    if ((error == EIO || error == EBADMSG) && system > 0)
        error = system;
    return fail_set(why, error, "cannot write the index: %s", sqlite3_errmsg(writer->db));
}

static int run(struct index_writer *writer, const char *sql, struct fail *why)
{
    int r = sqlite3_exec(writer->db, sql, NULL, NULL, NULL);
    return r == SQLITE_OK ? 0 : write_failed(writer, why);
}

static int prepare_writer(struct index_writer *writer, struct fail *why)
{
    static const char add[] =
        "INSERT INTO entry VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)";
    int r = run(writer, "BEGIN", why);
    for (size_t i = 0; r == 0 && i < SCHEMA_COUNT; i++)
        r = run(writer, schema[i], why);
    if (r < 0)
        return r;
    if (sqlite3_prepare_v2(writer->db, add, -1, &writer->add, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(writer->db, "INSERT INTO frame VALUES(?1,?2)", -1, &writer->add_frame,
                           NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(writer->db, SET_META, -1, &writer->set, NULL) != SQLITE_OK)
        return write_failed(writer, why);
    return 0;
}

/* Of no database yet. */
static struct index_writer *new_writer(const char *path)
{
    struct index_writer *writer cleanup_index_writer = calloc(1, sizeof(*writer));
    if (!writer || !(writer->path = strdup(path)))
        return NULL;
    buf_init(&writer->record, RECORD_MAX_BYTES);
    return take(writer);
}

static int open_writer(struct index_writer *writer, struct fail *why)
{
    /* unix-none: whoever has the empty file at that path has it alone. */
    int r = sqlite3_open_v2(writer->path, &writer->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                            "unix-none");
    if (r != SQLITE_OK)
        return writer->db ? write_failed(writer, why) : -ENOMEM;
    return run(writer,
               "PRAGMA page_size=4096; PRAGMA auto_vacuum=NONE; PRAGMA secure_delete=OFF;"
               "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
               "PRAGMA cache_size=" WRITER_CACHE,
               why);
}

int index_writer_new(const char *path, struct index_writer **ret_writer, struct fail *why)
{
    struct index_writer *writer cleanup_index_writer = new_writer(path);
    if (!writer)
        return -ENOMEM;
    int r = open_writer(writer, why);
    if (r == 0)
        r = prepare_writer(writer, why);
    if (r < 0)
        return r;
    *ret_writer = take(writer);
    return 0;
}

static int close_database(struct index_writer *writer)
{
    (void)sqlite3_finalize(take(writer->add));
    (void)sqlite3_finalize(take(writer->add_frame));
    (void)sqlite3_finalize(take(writer->set));
    return sqlite3_close(take(writer->db));
}

void index_writer_free(struct index_writer *writer)
{
    if (!writer)
        return;
    (void)close_database(writer);
    buf_done(&writer->record);
    free(writer->path);
    free(writer);
}

/* Runs a statement whose parameters are bound. */
static int insert(struct index_writer *writer, sqlite3_stmt *stmt, struct fail *why)
{
    int r = sqlite3_step(stmt) == SQLITE_DONE ? 0 : write_failed(writer, why);
    (void)sqlite3_reset(stmt);
    (void)sqlite3_clear_bindings(stmt);
    return r;
}

static int bind_bytes(sqlite3_stmt *stmt, int column, const void *data, size_t bytes)
{
    return sqlite3_bind_blob64(stmt, column + 1, bytes ? data : "", bytes, SQLITE_STATIC);
}

static int bind_file(sqlite3_stmt *stmt, const struct index_entry *entry)
{
    const struct file *file = &entry->file;
    const struct file_stat *st = &file->stat;
    const struct {
        int column;
        int64_t value;
    } numbers[] = {
        {COLUMN_MODE, st->mode},
        {COLUMN_NLINK, st->nlink},
        {COLUMN_UID, st->uid},
        {COLUMN_GID, st->gid},
        {COLUMN_SIZE, (int64_t)st->size_bytes},
        {COLUMN_MTIME_S, st->mtime.s},
        {COLUMN_MTIME_NS, st->mtime.ns},
        {COLUMN_RDEV_MAJOR, st->rdev_major},
        {COLUMN_RDEV_MINOR, st->rdev_minor},
        {COLUMN_OFFSET, (int64_t)entry->offset},
    };
    int r = SQLITE_OK;
    for (size_t i = 0; r == SQLITE_OK && i < sizeof(numbers) / sizeof(numbers[0]); i++)
        r = sqlite3_bind_int64(stmt, numbers[i].column + 1, numbers[i].value);
    if (r == SQLITE_OK && file->link_target[0])
        r = bind_bytes(stmt, COLUMN_LINK_TARGET, file->link_target, strlen(file->link_target));
    if (r == SQLITE_OK && file->xattr_bytes)
        r = bind_bytes(stmt, COLUMN_XATTRS, file->xattrs, file->xattr_bytes);
    return r;
}

static int bind_place(sqlite3_stmt *stmt, const struct index_entry *entry)
{
    int r = sqlite3_bind_int64(stmt, COLUMN_ID + 1, (int64_t)entry->id);
    if (r == SQLITE_OK)
        r = sqlite3_bind_int64(stmt, COLUMN_PARENT + 1, (int64_t)entry->parent);
    if (r == SQLITE_OK)
        r = sqlite3_bind_int64(stmt, COLUMN_TARGET + 1, (int64_t)entry->target);
    if (r == SQLITE_OK)
        r = bind_bytes(stmt, COLUMN_NAME, entry->file.name, strlen(entry->file.name));
    return r;
}

/* An entry that is a second name is bound without a file. */
static int insert_entry(struct index_writer *writer, const struct index_entry *entry,
                        struct fail *why)
{
    sqlite3_stmt *stmt = writer->add;
    bool is_first = entry->target == entry->id;
    int r = bind_place(stmt, entry);
    if (r == SQLITE_OK && is_first)
        r = bind_file(stmt, entry);
    if (r == SQLITE_OK && is_first && entry->file.is_sparse)
        r = bind_bytes(stmt, COLUMN_EXTENTS, entry->file.extents,
                       entry->file.extent_count * EXTENT_BYTES);
    return r == SQLITE_OK ? insert(writer, stmt, why) : write_failed(writer, why);
}

int index_add(struct index_writer *writer, const struct index_entry *entry,
              const struct file_extent *extents, struct fail *why)
{
    struct index_entry packed = *entry;
    bool is_next = writer->entries == 0 ? entry->id == 0 : entry->id > writer->last_id;
    if (strlen(entry->file.name) > NAME_MAX)
        return fail_set(why, ENAMETOOLONG, "a name of more than %d bytes", NAME_MAX);
    int r = is_next && is_placed(entry) ? 0 : -EBADMSG;
    if (r == 0 && entry->target == entry->id)
        r = is_sound(entry) ? pack(&writer->record, &packed.file, extents) : -EBADMSG;
    if (r == -EBADMSG)
        return fail_set(why, EINVAL, "entry %" PRIu64 " makes no sense", entry->id);
    if (r == 0)
        r = insert_entry(writer, &packed, why);
    if (r < 0)
        return r;
    writer->entries++;
    writer->last_id = entry->id;
    return 0;
}

int index_add_frame(struct index_writer *writer, uint64_t number,
                    const uint8_t key[INDEX_KEY_BYTES], struct fail *why)
{
    if (number > INT64_MAX ||
        sqlite3_bind_int64(writer->add_frame, 1, (int64_t)number) != SQLITE_OK ||
        sqlite3_bind_blob(writer->add_frame, 2, key, INDEX_KEY_BYTES, SQLITE_STATIC) != SQLITE_OK)
        return fail_set(why, EINVAL, "a frame of number %" PRIu64, number);
    return insert(writer, writer->add_frame, why);
}

static int set_number(struct index_writer *writer, const char *key, uint64_t value,
                      struct fail *why)
{
    int r = sqlite3_bind_text(writer->set, 1, key, -1, SQLITE_STATIC);
    if (r == SQLITE_OK)
        r = sqlite3_bind_int64(writer->set, 2, (int64_t)value);
    return r == SQLITE_OK ? insert(writer, writer->set, why) : write_failed(writer, why);
}

static int set_bytes(struct index_writer *writer, const char *key, const void *data, size_t bytes,
                     struct fail *why)
{
    int r = sqlite3_bind_text(writer->set, 1, key, -1, SQLITE_STATIC);
    if (r == SQLITE_OK)
        r = sqlite3_bind_blob64(writer->set, 2, data, bytes, SQLITE_STATIC);
    return r == SQLITE_OK ? insert(writer, writer->set, why) : write_failed(writer, why);
}

static int write_about(struct index_writer *writer, const struct index_about *about,
                       struct fail *why)
{
    size_t consistency_bytes = strnlen(about->consistency, sizeof(about->consistency) - 1);
    int r = set_number(writer, "version", INDEX_VERSION, why);
    if (r == 0)
        r = set_number(writer, "archive_bytes", about->archive_bytes, why);
    if (r == 0)
        r = set_number(writer, "seal", about->seal, why);
    if (r == 0)
        r = set_number(writer, "taken", (uint64_t)about->taken_s, why);
    if (r == 0)
        r = set_number(writer, "entries", writer->entries, why);
    if (r == 0)
        r = set_bytes(writer, "sha256", about->sha256, sizeof(about->sha256), why);
    if (r == 0)
        r = set_bytes(writer, "consistency", about->consistency, consistency_bytes, why);
    return r;
}

static int complete(struct index_writer *writer, struct fail *why)
{
    if (close_database(writer) != SQLITE_OK)
        return fail_set(why, EIO, "cannot close the index");
    return pagefile_finish(writer->path, why);
}

int index_finish(struct index_writer *writer, const struct index_about *about, struct fail *why)
{
    int r = write_about(writer, about, why);
    if (r == 0)
        r = run(writer, "COMMIT", why);
    return r < 0 ? r : complete(writer, why);
}

/* ---- opening ------------------------------------------------------------------- */

enum {
    STATEMENT_GET,
    STATEMENT_FIRST, /* the same, for the first name of a second one */
    STATEMENT_FIND,
    STATEMENT_LIST,
    STATEMENT_FRAMES,
    STATEMENT_META,
    STATEMENT_COUNT,
};

static const char *const statements[STATEMENT_COUNT] = {
    [STATEMENT_GET] = "SELECT * FROM entry WHERE id=?1",
    [STATEMENT_FIRST] = "SELECT * FROM entry WHERE id=?1",
    [STATEMENT_FIND] = "SELECT * FROM entry WHERE parent=?1 AND name=?2",
    [STATEMENT_LIST] = "SELECT * FROM entry WHERE parent=?1 AND name>?2 ORDER BY name LIMIT ?3",
    [STATEMENT_FRAMES] = "SELECT number, key FROM frame ORDER BY number",
    [STATEMENT_META] = "SELECT value FROM meta WHERE key=?1",
};

struct index {
    struct pagefile *file;
    struct index_about about;
    pthread_mutex_t lock; /* of all below */
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    struct buf record; /* of the entry that is being read */
};

/* A statement in use; its end is the end of the scope. */
static void reset_statement(sqlite3_stmt **stmt)
{
    (void)sqlite3_reset(*stmt);
    (void)sqlite3_clear_bindings(*stmt);
}
#define cleanup_statement cleanup(reset_statement)

static int damaged(struct fail *why)
{
    return fail_set(why, EBADMSG, "the index is damaged");
}

static int read_failed(struct index *index, struct fail *why)
{
    int error = errno_of(sqlite3_extended_errcode(index->db));
    if (error != EIO && error != ENOMEM) /* nothing else comes of a sound index */
        return damaged(why);
    if (error == EIO)
        error = pagefile_errno(index->file);
    return fail_errno(why, error, "cannot read the index");
}

/* The next row: 1, or 0 at the end. */
static int step(struct index *index, sqlite3_stmt *stmt, struct fail *why)
{
    int r = sqlite3_step(stmt);
    if (r == SQLITE_ROW || r == SQLITE_DONE)
        return r == SQLITE_ROW;
    return read_failed(index, why);
}

static int configure(struct index *index, struct fail *why)
{
    static const int limits[][2] = {
        {SQLITE_LIMIT_LENGTH, VALUE_MAX_BYTES + 65536},
        {SQLITE_LIMIT_SQL_LENGTH, 4096},
        {SQLITE_LIMIT_COLUMN, 32},
        {SQLITE_LIMIT_EXPR_DEPTH, 10},
        {SQLITE_LIMIT_COMPOUND_SELECT, 1},
        {SQLITE_LIMIT_VDBE_OP, 1000},
        {SQLITE_LIMIT_FUNCTION_ARG, 4},
        {SQLITE_LIMIT_ATTACHED, 0},
        {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
        {SQLITE_LIMIT_WORKER_THREADS, 0},
    };
    static const int options[][2] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},
        {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
        {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
        {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
    };
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        (void)sqlite3_limit(index->db, limits[i][0], limits[i][1]);
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (sqlite3_db_config(index->db, options[i][0], options[i][1], NULL) != SQLITE_OK)
            return read_failed(index, why);
    int r = sqlite3_exec(index->db,
                         "PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;"
                         "PRAGMA cache_size=" READER_CACHE,
                         NULL, NULL, NULL);
    return r == SQLITE_OK ? 0 : read_failed(index, why);
}

static int compare_schema(struct index *index, sqlite3_stmt *stmt, struct fail *why)
{
    for (size_t i = 0; i < SCHEMA_COUNT; i++) {
        int r = step(index, stmt, why);
        if (r <= 0)
            return r < 0 ? r : damaged(why);
        const unsigned char *sql = sqlite3_column_text(stmt, 0);
        if (!sql || strcmp((const char *)sql, schema[i]) != 0)
            return damaged(why);
    }
    int r = step(index, stmt, why);
    return r > 0 ? damaged(why) : r;
}

static int check_schema(struct index *index, struct fail *why)
{
    sqlite3_stmt *stmt;
    int r = sqlite3_prepare_v2(index->db, "SELECT sql FROM sqlite_master ORDER BY rowid", -1, &stmt,
                               NULL);
    if (r != SQLITE_OK)
        return read_failed(index, why);
    r = compare_schema(index, stmt, why);
    (void)sqlite3_finalize(stmt);
    return r;
}

static int prepare_reader(struct index *index, struct fail *why)
{
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (sqlite3_prepare_v3(index->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &index->statements[i], NULL) != SQLITE_OK)
            return read_failed(index, why);
    return 0;
}

/* The value of a key, of that type, in a statement at its row. */
static int find_meta(struct index *index, const char *key, int type, sqlite3_stmt *stmt,
                     struct fail *why)
{
    if (sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC) != SQLITE_OK)
        return read_failed(index, why);
    int r = step(index, stmt, why);
    if (r < 0)
        return r;
    return r > 0 && sqlite3_column_type(stmt, 0) == type ? 0 : damaged(why);
}

static int get_number(struct index *index, const char *key, uint64_t *ret_value, struct fail *why)
{
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_META];
    int r = find_meta(index, key, SQLITE_INTEGER, stmt, why);
    if (r == 0)
        *ret_value = (uint64_t)sqlite3_column_int64(stmt, 0);
    return r;
}

/* Fills in up to `room` bytes, at least `least`. */
static int get_bytes(struct index *index, const char *key, void *data, int least, int room,
                     struct fail *why)
{
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_META];
    int r = find_meta(index, key, SQLITE_BLOB, stmt, why);
    if (r < 0)
        return r;
    const void *value = sqlite3_column_blob(stmt, 0);
    int bytes = sqlite3_column_bytes(stmt, 0);
    if (bytes < least || bytes > room)
        return damaged(why);
    if (bytes > 0 && !value)
        return -ENOMEM;
    memcpy(data, bytes ? value : "", (size_t)bytes);
    return 0;
}

static int read_about(struct index *index, struct fail *why)
{
    struct index_about *about = &index->about;
    uint64_t version = 0;
    uint64_t taken = 0;
    int r = get_number(index, "version", &version, why);
    if (r == 0 && version != INDEX_VERSION)
        return fail_set(why, ENODATA, "the index is of another version");
    if (r == 0)
        r = get_number(index, "archive_bytes", &about->archive_bytes, why);
    if (r == 0)
        r = get_number(index, "seal", &about->seal, why);
    if (r == 0)
        r = get_number(index, "taken", &taken, why);
    if (r == 0)
        r = get_number(index, "entries", &about->entries, why);
    if (r == 0)
        r = get_bytes(index, "sha256", about->sha256, sizeof(about->sha256), sizeof(about->sha256),
                      why);
    if (r == 0)
        r = get_bytes(index, "consistency", about->consistency, 0, sizeof(about->consistency) - 1,
                      why);
    about->taken_s = (int64_t)taken;
    return r;
}

static int open_database(struct index *index, struct fail *why)
{
    int r = pagefile_database(index->file, &index->db);
    if (r != SQLITE_OK)
        return index->db ? read_failed(index, why) : -ENOMEM;
    r = configure(index, why);
    if (r == 0)
        r = check_schema(index, why);
    if (r == 0)
        r = prepare_reader(index, why);
    return r < 0 ? r : read_about(index, why);
}

int index_open(const char *path, struct index **ret_index, struct fail *why)
{
    struct index *index cleanup_index = calloc(1, sizeof(*index));
    if (!index)
        return -ENOMEM;
    (void)pthread_mutex_init(&index->lock, NULL);
    buf_init(&index->record, RECORD_MAX_BYTES);
    int r = pagefile_open(path, &index->file, why);
    if (r == 0)
        r = open_database(index, why);
    if (r < 0)
        return r == -EBADMSG ? -ENODATA : r;
    *ret_index = take(index);
    return 0;
}

void index_close(struct index *index)
{
    if (!index)
        return;
    for (int i = 0; i < STATEMENT_COUNT; i++)
        (void)sqlite3_finalize(index->statements[i]);
    (void)sqlite3_close(index->db);
    pagefile_close(index->file);
    buf_done(&index->record);
    (void)pthread_mutex_destroy(&index->lock);
    free(index);
}

void index_about(const struct index *index, struct index_about *ret_about)
{
    *ret_about = index->about;
}

/* ---- copying ------------------------------------------------------------------- */

/* Each page is checked on the way. */
static int copy_database(struct index *index, struct index_writer *writer, struct fail *why)
{
    scoped_lock(&index->lock);
    sqlite3_backup *backup = sqlite3_backup_init(writer->db, "main", index->db, "main");
    if (!backup)
        return write_failed(writer, why);
    (void)sqlite3_backup_step(backup, -1);
    int r = sqlite3_backup_finish(backup);
    if (r != SQLITE_OK && errno_of(r) == EBADMSG) /* only what is read can be that */
        return damaged(why);
    return r == SQLITE_OK ? 0 : write_failed(writer, why);
}

static int set_anew(struct index_writer *writer, const struct index_about *about, struct fail *why)
{
    int r = run(writer, "BEGIN; DELETE FROM meta", why);
    if (r == 0 && sqlite3_prepare_v2(writer->db, SET_META, -1, &writer->set, NULL) != SQLITE_OK)
        r = write_failed(writer, why);
    writer->entries = about->entries;
    if (r == 0)
        r = write_about(writer, about, why);
    return r < 0 ? r : run(writer, "COMMIT", why);
}

int index_copy(struct index *index, const char *path, int64_t taken_s, const char *consistency,
               struct fail *why)
{
    struct index_about about = index->about;
    about.taken_s = taken_s;
    memset(about.consistency, 0, sizeof(about.consistency));
    (void)strncpy(about.consistency, consistency, sizeof(about.consistency) - 1);
    struct index_writer *writer cleanup_index_writer = new_writer(path);
    if (!writer)
        return -ENOMEM;
    int r = open_writer(writer, why);
    if (r == 0)
        r = copy_database(index, writer, why);
    if (r == 0)
        r = set_anew(writer, &about, why);
    return r < 0 ? r : complete(writer, why);
}

/* ---- reading ------------------------------------------------------------------- */

/* An entry being read; what its file points to is in the index's record. */
struct row {
    struct index_entry entry;
    char name[NAME_MAX + 1];
    char link_target[LINK_MAX_BYTES + 1];
};

static int take_number(sqlite3_stmt *stmt, int column, uint64_t max, uint64_t *ret)
{
    sqlite3_int64 value = sqlite3_column_int64(stmt, column);
    if (sqlite3_column_type(stmt, column) != SQLITE_INTEGER || value < 0 || (uint64_t)value > max)
        return -EBADMSG;
    *ret = (uint64_t)value;
    return 0;
}

/* A value's bytes; NULL counts as none.  Valid until the statement moves on. */
static int take_bytes(sqlite3_stmt *stmt, int column, size_t max, const char **ret_data,
                      size_t *ret_bytes)
{
    int type = sqlite3_column_type(stmt, column);
    if (type != SQLITE_BLOB && type != SQLITE_NULL)
        return -EBADMSG;
    const char *data = sqlite3_column_blob(stmt, column);
    size_t bytes = (size_t)sqlite3_column_bytes(stmt, column);
    if (bytes > max)
        return -EBADMSG;
    if (bytes > 0 && !data)
        return -ENOMEM;
    *ret_data = bytes ? data : "";
    *ret_bytes = bytes;
    return 0;
}

/* The same as a string, in a buffer with room for max bytes and a NUL. */
static int take_string(sqlite3_stmt *stmt, int column, size_t max, char *string)
{
    const char *data = NULL;
    size_t bytes = 0;
    int r = take_bytes(stmt, column, max, &data, &bytes);
    if (r < 0)
        return r;
    if (memchr(data, '\0', bytes))
        return -EBADMSG;
    memcpy(string, data, bytes);
    string[bytes] = '\0';
    return 0;
}

static int take_place(sqlite3_stmt *stmt, struct row *row)
{
    struct index_entry *entry = &row->entry;
    *entry = (struct index_entry){.file.name = row->name};
    if (take_number(stmt, COLUMN_ID, INT64_MAX, &entry->id) < 0 ||
        take_number(stmt, COLUMN_PARENT, INT64_MAX, &entry->parent) < 0 ||
        take_number(stmt, COLUMN_TARGET, INT64_MAX, &entry->target) < 0)
        return -EBADMSG;
    int r = take_string(stmt, COLUMN_NAME, NAME_MAX, row->name);
    if (r < 0)
        return r;
    return is_placed(entry) ? 0 : -EBADMSG;
}

static int take_stat(sqlite3_stmt *stmt, struct index_entry *entry)
{
    static const struct {
        int column;
        uint64_t max;
    } columns[] = {
        {COLUMN_MODE, UINT32_MAX},       {COLUMN_NLINK, UINT32_MAX},
        {COLUMN_UID, UINT32_MAX},        {COLUMN_GID, UINT32_MAX},
        {COLUMN_RDEV_MAJOR, UINT32_MAX}, {COLUMN_RDEV_MINOR, UINT32_MAX},
        {COLUMN_MTIME_NS, 999999999},    {COLUMN_SIZE, INT64_MAX},
        {COLUMN_OFFSET, INT64_MAX},
    };
    uint64_t values[COLUMN_OFFSET + 1] = {0};
    for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
        if (take_number(stmt, columns[i].column, columns[i].max, &values[columns[i].column]) < 0)
            return -EBADMSG;
    if (sqlite3_column_type(stmt, COLUMN_MTIME_S) != SQLITE_INTEGER)
        return -EBADMSG;
    entry->offset = values[COLUMN_OFFSET];
    entry->file.stat = (struct file_stat){
        .mode = (uint32_t)values[COLUMN_MODE],
        .nlink = (uint32_t)values[COLUMN_NLINK],
        .uid = (uint32_t)values[COLUMN_UID],
        .gid = (uint32_t)values[COLUMN_GID],
        .size_bytes = values[COLUMN_SIZE],
        .rdev_major = (uint32_t)values[COLUMN_RDEV_MAJOR],
        .rdev_minor = (uint32_t)values[COLUMN_RDEV_MINOR],
        .mtime = {sqlite3_column_int64(stmt, COLUMN_MTIME_S), (uint32_t)values[COLUMN_MTIME_NS]},
    };
    return 0;
}

/* The extents, unpacked and malloc'ed. */
static int take_extents(sqlite3_stmt *stmt, struct file *file, struct file_extent **ret_extents)
{
    const char *data = NULL;
    size_t bytes = 0;
    int r = take_bytes(stmt, COLUMN_EXTENTS, VALUE_MAX_BYTES, &data, &bytes);
    if (r < 0 || bytes % EXTENT_BYTES)
        return r < 0 ? r : -EBADMSG;
    file->extents = data;
    file->extent_count = bytes / EXTENT_BYTES;
    file->is_sparse = sqlite3_column_type(stmt, COLUMN_EXTENTS) == SQLITE_BLOB;
    struct file_extent *extents = calloc(file->extent_count + 1, sizeof(*extents));
    if (!extents)
        return -ENOMEM;
    for (size_t i = 0; i < file->extent_count; i++)
        extents[i] = file_extent_at(file, i);
    *ret_extents = extents;
    return 0;
}

/* Of 512 bytes: as many as the data takes. */
static uint64_t blocks_of(const struct file *file)
{
    uint64_t bytes = file->is_sparse ? 0 : file->stat.size_bytes;
    if (!S_ISREG(file->stat.mode))
        return 0;
    for (size_t i = 0; i < file->extent_count; i++)
        bytes += file_extent_at(file, i).bytes;
    return (bytes + 511) / 512;
}

/* All of a first name but its place: the file, under the name that it has already. */
static int take_file(struct index *index, sqlite3_stmt *stmt, struct row *row)
{
    cleanup_free struct file_extent *extents = NULL;
    struct file *file = &row->entry.file;
    int r = take_stat(stmt, &row->entry);
    if (r == 0)
        r = take_string(stmt, COLUMN_LINK_TARGET, LINK_MAX_BYTES, row->link_target);
    if (r == 0)
        r = take_bytes(stmt, COLUMN_XATTRS, FILE_MAX_XATTR_BYTES, &file->xattrs,
                       &file->xattr_bytes);
    if (r == 0)
        r = take_extents(stmt, file, &extents);
    if (r < 0)
        return r;
    file->link_target = row->link_target;
    file->stat.ino = row->entry.target;
    r = pack(&index->record, file, extents);
    if (r < 0)
        return r;
    file->stat.blocks = blocks_of(file);
    return is_sound(&row->entry) ? 0 : -EBADMSG;
}

/* The file of a second name is that of the first. */
static int take_first(struct index *index, struct row *row, struct fail *why)
{
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_FIRST];
    struct row first = {0};
    if (sqlite3_bind_int64(stmt, 1, (int64_t)row->entry.target) != SQLITE_OK)
        return read_failed(index, why);
    int r = step(index, stmt, why);
    if (r <= 0)
        return r < 0 ? r : damaged(why);
    r = take_place(stmt, &first);
    if (r == 0 && (first.entry.id != row->entry.target || first.entry.target != first.entry.id))
        r = -EBADMSG;
    if (r == 0)
        r = take_file(index, stmt, row);
    if (r == 0 && S_ISDIR(row->entry.file.stat.mode))
        r = -EBADMSG;
    return r == -EBADMSG ? damaged(why) : r;
}

static int take_row(struct index *index, sqlite3_stmt *stmt, struct row *row, struct fail *why)
{
    int r = take_place(stmt, row);
    if (r == 0 && row->entry.target != row->entry.id)
        return take_first(index, row, why);
    if (r == 0)
        r = take_file(index, stmt, row);
    return r == -EBADMSG ? damaged(why) : r;
}

/* The one row of a statement whose parameters are bound. */
static int take_one(struct index *index, sqlite3_stmt *stmt, struct row *row, struct fail *why)
{
    int r = step(index, stmt, why);
    if (r <= 0)
        return r < 0 ? r : fail_set(why, ENOENT, "there is no such entry");
    return take_row(index, stmt, row, why);
}

int index_get(struct index *index, uint64_t id, index_fn *fn, void *data, struct fail *why)
{
    struct row row = {0};
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_GET];
    if (id > INT64_MAX)
        return fail_set(why, ENOENT, "there is no such entry");
    if (sqlite3_bind_int64(stmt, 1, (int64_t)id) != SQLITE_OK)
        return read_failed(index, why);
    int r = take_one(index, stmt, &row, why);
    if (r == 0 && row.entry.id != id)
        r = damaged(why);
    return r < 0 ? r : fn(data, &row.entry);
}

int index_find(struct index *index, uint64_t parent, const char *name, index_fn *fn, void *data,
               struct fail *why)
{
    struct row row = {0};
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_FIND];
    if (parent > INT64_MAX || !is_name(name))
        return fail_set(why, ENOENT, "there is no such entry");
    if (sqlite3_bind_int64(stmt, 1, (int64_t)parent) != SQLITE_OK ||
        bind_bytes(stmt, 1, name, strlen(name)) != SQLITE_OK)
        return read_failed(index, why);
    int r = take_one(index, stmt, &row, why);
    if (r == 0 && (row.entry.parent != parent || strcmp(row.name, name) != 0))
        r = damaged(why);
    return r < 0 ? r : fn(data, &row.entry);
}

int index_list(struct index *index, uint64_t parent, const char *after, unsigned max, index_fn *fn,
               void *data, struct fail *why)
{
    struct row row = {0};
    char last[NAME_MAX + 1] = "";
    int count = 0;
    int r = 0;
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_LIST];
    if (!after)
        after = ""; /* the root's own name is not behind that */
    if (max > INT_MAX)
        max = INT_MAX;
    if (parent > INT64_MAX)
        return 0;
    if (sqlite3_bind_int64(stmt, 1, (int64_t)parent) != SQLITE_OK ||
        bind_bytes(stmt, 1, after, strlen(after)) != SQLITE_OK ||
        sqlite3_bind_int64(stmt, 3, max) != SQLITE_OK)
        return read_failed(index, why);
    while ((r = step(index, stmt, why)) > 0) {
        r = take_row(index, stmt, &row, why);
        if (r == 0 && (row.entry.parent != parent || strcmp(row.name, after) <= 0))
            r = damaged(why);
        if (r == 0)
            r = fn(data, &row.entry);
        if (r < 0)
            return r;
        memcpy(last, row.name, sizeof(last));
        after = last;
        count++;
    }
    return r < 0 ? r : count;
}

int index_frames(struct index *index,
                 int (*fn)(void *data, uint64_t number, const uint8_t key[INDEX_KEY_BYTES]),
                 void *data, struct fail *why)
{
    uint64_t next = 0;
    int r;
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_FRAMES];
    while ((r = step(index, stmt, why)) > 0) {
        uint64_t number = 0;
        const char *key = NULL;
        size_t bytes = 0;
        r = take_number(stmt, 0, INT64_MAX, &number);
        if (r == 0)
            r = take_bytes(stmt, 1, INDEX_KEY_BYTES, &key, &bytes);
        if (r < 0 || number < next || bytes != INDEX_KEY_BYTES)
            return r == -ENOMEM ? r : damaged(why);
        r = fn(data, number, (const uint8_t *)key);
        if (r < 0)
            return r;
        next = number + 1;
    }
    return r;
}
