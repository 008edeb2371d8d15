// Browsers start no Worker from a page that is opened as a file. This one runs the script in a hidden frame instead, so
// that the search of the site works without a server. It has what the search uses: postMessage and 'message' events.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement('iframe')
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = data => this.dispatchEvent(new MessageEvent('message', { data }))
      this.loaded = new Promise((resolve, reject) => {
        const script = inside.document.createElement('script')
        script.src = new URL(url, location.href).href
        script.onload = () => resolve(inside)
        script.onerror = () => reject(new Error(`${script.src} cannot be loaded`))
        inside.document.body.append(script)
      })
    }

    postMessage(data) {
      this.loaded.then(inside => inside.dispatchEvent(new inside.MessageEvent('message', { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
