//! The ClickHouse engine as a shared library (`libchdb.so`), opened at run time.
//!
//! This file is the only one in Farebox with `unsafe`: it calls C. What keeps it sound:
//! the library is never unloaded; a connection is used by the thread that opened it and by no other
//! (neither type here is `Send`); every text is passed with its length; a result is read only while
//! it lives, and destroyed exactly once.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;

type Connection_ = *mut c_void;
type Result_ = *mut c_void;
type Query = unsafe extern "C" fn(Connection_, *const c_char, usize, *const c_char, usize) -> Result_;
type QueryWithParams = unsafe extern "C" fn(
    Connection_,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> Result_;

/// The functions of the library that are used.
pub struct Library {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Connection_,
    close: unsafe extern "C" fn(*mut Connection_),
    query: Query,
    query_with_params: QueryWithParams,
    stream: Query,
    stream_with_params: QueryWithParams,
    fetch: unsafe extern "C" fn(Connection_, Result_) -> Result_,
    cancel: unsafe extern "C" fn(Connection_, Result_),
    destroy: unsafe extern "C" fn(Result_),
    buffer: unsafe extern "C" fn(Result_) -> *const c_char,
    length: unsafe extern "C" fn(Result_) -> usize,
    error: unsafe extern "C" fn(Result_) -> *const c_char,
    rows: unsafe extern "C" fn(Result_) -> u64,
    rows_read: unsafe extern "C" fn(Result_) -> u64,
    bytes_read: unsafe extern "C" fn(Result_) -> u64,
    rows_written: unsafe extern "C" fn(Result_) -> u64,
    bytes_written: unsafe extern "C" fn(Result_) -> u64,
}

impl Library {
    /// Opens the library; it stays open until the process ends.
    pub fn open(path: &Path) -> Result<&'static Self, libloading::Error> {
        // SAFETY: the file is the pinned libchdb, whose initialisers only set up its own state. The
        // types of the functions are those of its header chdb.h. The handle is leaked, so the
        // pointers stay valid for the rest of the process.
        unsafe {
            let handle: &'static libloading::Library = Box::leak(Box::new(libloading::Library::new(path)?));
            let library = Self {
                connect: *handle.get("chdb_connect")?,
                close: *handle.get("chdb_close_conn")?,
                query: *handle.get("chdb_query_n")?,
                query_with_params: *handle.get("chdb_query_with_params_n")?,
                stream: *handle.get("chdb_stream_query_n")?,
                stream_with_params: *handle.get("chdb_stream_query_with_params_n")?,
                fetch: *handle.get("chdb_stream_fetch_result")?,
                cancel: *handle.get("chdb_stream_cancel_query")?,
                destroy: *handle.get("chdb_destroy_query_result")?,
                buffer: *handle.get("chdb_result_buffer")?,
                length: *handle.get("chdb_result_length")?,
                error: *handle.get("chdb_result_error")?,
                rows: *handle.get("chdb_result_rows_read")?,
                rows_read: *handle.get("chdb_result_storage_rows_read")?,
                bytes_read: *handle.get("chdb_result_storage_bytes_read")?,
                rows_written: *handle.get("chdb_result_rows_written")?,
                bytes_written: *handle.get("chdb_result_bytes_written")?,
            };
            Ok(Box::leak(Box::new(library)))
        }
    }

    /// Opens a connection. The first one starts the engine on the data directory named by `arguments`;
    /// the others join it.
    pub fn connect(&'static self, arguments: &[String]) -> Option<Connection> {
        let arguments: Vec<CString> = arguments.iter().map(|text| CString::new(text.as_str()).ok()).collect::<Option<_>>()?;
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `pointers` are NUL-terminated texts that outlive the call; the library copies them.
        let handle = unsafe { (self.connect)(count, pointers.as_mut_ptr()) };
        (!handle.is_null()).then_some(Connection { library: self, handle })
    }
}

/// A session of the engine: its settings and its current database. Not `Send`, by its raw pointer.
pub struct Connection {
    library: &'static Library,
    handle: *mut Connection_,
}

/// Values bound to `{name:Type}` in a query.
pub type Params = Vec<(String, String)>;

impl Connection {
    /// Runs a statement to its end; the whole result is in memory.
    pub fn query(&self, sql: &[u8], format: &str, params: &Params) -> Result<Answer<'_>, String> {
        self.call(self.library.query, self.library.query_with_params, sql, format, params)
    }

    /// Starts a `SELECT` whose result is then fetched block by block.
    pub fn stream(&self, sql: &[u8], format: &str, params: &Params) -> Result<Stream<'_>, String> {
        let answer = self.call(self.library.stream, self.library.stream_with_params, sql, format, params)?;
        Ok(Stream { connection: self, answer, ended: false })
    }

    fn call(&self, plain: Query, bound: QueryWithParams, sql: &[u8], format: &str, params: &Params) -> Result<Answer<'_>, String> {
        let (sql_at, format_at) = (sql.as_ptr().cast(), format.as_ptr().cast());
        // SAFETY: `handle` is a live connection of this thread; every text is passed with its length and
        // outlives the call, and so do the arrays of pointers and lengths.
        let result = unsafe {
            let connection = *self.handle;
            if params.is_empty() {
                plain(connection, sql_at, sql.len(), format_at, format.len())
            } else {
                let names: Vec<*const c_char> = params.iter().map(|(name, _)| name.as_ptr().cast()).collect();
                let name_lengths: Vec<usize> = params.iter().map(|(name, _)| name.len()).collect();
                let values: Vec<*const c_char> = params.iter().map(|(_, value)| value.as_ptr().cast()).collect();
                let value_lengths: Vec<usize> = params.iter().map(|(_, value)| value.len()).collect();
                bound(
                    connection,
                    sql_at,
                    sql.len(),
                    format_at,
                    format.len(),
                    names.as_ptr(),
                    name_lengths.as_ptr(),
                    values.as_ptr(),
                    value_lengths.as_ptr(),
                    params.len(),
                )
            }
        };
        self.answer(result)
    }

    fn answer(&self, result: Result_) -> Result<Answer<'_>, String> {
        if result.is_null() {
            return Err("Code: 1001. DB::Exception: the engine gave neither a result nor an error. (STD_EXCEPTION)".into());
        }
        let answer = Answer { library: self.library, result, connection: PhantomData };
        // SAFETY: `result` is live; the error, when there is one, is a NUL-terminated text inside it.
        let error = unsafe {
            let text = (self.library.error)(result);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        match error {
            Some(text) if !text.is_empty() => Err(text),
            _ => Ok(answer),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: `handle` came from `chdb_connect` and is closed once.
        unsafe { (self.library.close)(self.handle) }
    }
}

/// What a statement gave: bytes in the requested format, and counts.
pub struct Answer<'a> {
    library: &'static Library,
    result: Result_,
    connection: PhantomData<&'a Connection>,
}

/// Rows and bytes, as ClickHouse reports them in `X-ClickHouse-Summary`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub result_rows: u64,
    pub read_rows: u64,
    pub read_bytes: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
}

impl Answer<'_> {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: buffer and length belong to the live result, and the slice borrows it.
        unsafe {
            let (start, length) = ((self.library.buffer)(self.result), (self.library.length)(self.result));
            if start.is_null() || length == 0 { &[] } else { std::slice::from_raw_parts(start.cast(), length) }
        }
    }

    pub fn counts(&self) -> Counts {
        // SAFETY: the result is live, and is not an error (an error's counts are uninitialised in 26.5).
        unsafe {
            Counts {
                result_rows: (self.library.rows)(self.result),
                read_rows: (self.library.rows_read)(self.result),
                read_bytes: (self.library.bytes_read)(self.result),
                written_rows: (self.library.rows_written)(self.result),
                written_bytes: (self.library.bytes_written)(self.result),
            }
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        // SAFETY: `result` is live and destroyed once.
        unsafe { (self.library.destroy)(self.result) }
    }
}

/// A running `SELECT`. Dropped before its end, it is cancelled.
pub struct Stream<'a> {
    connection: &'a Connection,
    answer: Answer<'a>,
    ended: bool,
}

impl<'a> Stream<'a> {
    /// The next block, `None` after the last one.
    pub fn next_block(&mut self) -> Result<Option<Answer<'a>>, String> {
        if self.ended {
            return Ok(None);
        }
        // SAFETY: connection and stream handle are live and of this thread.
        let result = unsafe { (self.connection.library.fetch)(*self.connection.handle, self.answer.result) };
        let block = self.connection.answer(result).inspect_err(|_| self.ended = true)?;
        if block.counts().result_rows == 0 {
            self.ended = true;
            return Ok((!block.bytes().is_empty()).then_some(block));
        }
        Ok(Some(block))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: the stream is live and still running.
            unsafe { (self.connection.library.cancel)(*self.connection.handle, self.answer.result) }
        }
    }
}

/// Ends the process at once. The library's own exit handlers crash or hang (seen with 26.5.3), and
/// nothing is lost without them: what was acknowledged is in the files.
pub fn leave(code: c_int) -> ! {
    unsafe extern "C" {
        fn _exit(code: c_int) -> !;
    }
    // SAFETY: `_exit` only ends the process.
    unsafe { _exit(code) }
}
